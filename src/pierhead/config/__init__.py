"""How pierhead reads what others configure: one module per program whose reading or writing we reproduce."""
