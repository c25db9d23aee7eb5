"""Images named in manifests, rendered charts, Helm values and kustomizations."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from command import run_pierhead
from pierhead.errors import Problem
from pierhead.image_list import read_list
from pierhead.image_names import PROBLEMS_LIMIT, FoundImage, find_images
from pierhead.image_names.tree import DEPTH_LIMIT
from pierhead.reference import Reference

DIGEST = "sha256:" + "a" * 64


def find(text: str, file: str = "m.yaml") -> tuple[list[FoundImage], list[Problem]]:
    images, problems = find_images(dedent(text).encode(), file)
    return list(images), list(problems)


def found(text: str) -> list[str]:
    """The images of a text that has no problem, in their short form; with the tag that stands beside a digest."""
    images, problems = find(text)
    assert not problems
    return [image.reference.familiar.replace("@", f":{image.tag}@" if image.tag else "@") for image in images]


def told(text: str) -> list[tuple[str, str, int]]:
    """Severity, id and line of each problem."""
    return [(item.severity, item.id, item.span.line if item.span else 0) for item in find(text)[1]]


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers:
        - name: wait
          image: busybox
      containers:
        - name: app
          image: "quay.io/team/app:v1"   # pinned
          env:
            - {name: HELPER_IMAGE, value: "quay.io/team/helper:2"}
            - {name: RELATED_IMAGE_PROXY, value: quay.io/team/proxy:3}
            - {name: OTHER, value: "quay.io/team/other:4"}
      ephemeralContainers: [{image: 'quay.io/team/debug@sha256:%s'}]
      volumes:
        - name: data
          image: {reference: quay.io/team/data:5, pullPolicy: Always}
"""


def test_a_deployment_names_its_images_with_their_places() -> None:
    images, problems = find(DEPLOYMENT % ("b" * 64))
    assert not problems
    assert [(str(image.reference), image.span.line, image.span.column, image.path) for image in images] == [
        ("docker.io/library/busybox:latest", 8, 18, "spec.template.spec.initContainers[0].image"),
        ("quay.io/team/app:v1", 11, 18, "spec.template.spec.containers[0].image"),
        ("quay.io/team/helper:2", 13, 43, "spec.template.spec.containers[0].env[0].value"),
        ("quay.io/team/proxy:3", 14, 50, "spec.template.spec.containers[0].env[1].value"),
        (f"quay.io/team/debug@sha256:{'b' * 64}", 16, 37, "spec.template.spec.ephemeralContainers[0].image"),
        ("quay.io/team/data:5", 19, 18, "spec.template.spec.volumes[0].image"),
    ]


def test_json_and_lists_are_read_too() -> None:
    pod = {"kind": "Pod", "spec": {"containers": [{"image": "redis:7"}]}}
    text = json.dumps({"kind": "List", "items": [pod, pod]}, indent="\t")
    assert found(text) == ["redis:7", "redis:7"]


def test_every_document_counts_for_itself() -> None:
    text = """\
    %YAML 1.2
    ---
    spec: {image: a:1}
    --- # the second
    image: [broken
    ...
    ---
    a: |
      ---
      image: not-this:1
    image: b:2
    ---
    image: c:3
    """
    images, problems = find(text)
    assert [image.reference.familiar for image in images] == ["a:1", "b:2", "c:3"]
    assert [image.span.line for image in images] == [3, 11, 13]
    assert [(item.id, item.span.line if item.span else 0) for item in problems] == [("unreadable-document", 6)]


def test_windows_byte_order_marks_and_wrong_bytes() -> None:
    text = "image: a:1\r\nnote: größer\r\n---\r\nimage: b:2\r\n"
    for data in (text.encode("utf-8-sig"), text.encode("utf-16"), text.encode("cp1252")):
        images, problems = find_images(data, "m.yaml")
        assert [(image.reference.familiar, image.span.line) for image in images] == [("a:1", 1), ("b:2", 4)]
        assert not problems


@pytest.mark.parametrize(
    "text",
    [
        "image: null",
        "image: ~",
        "image: true",
        "image: 5",
        "image: 1.5",
        "image:",
        "image: https://a.example/logo.png",
        "image: ''",
        "image: {type: string}",
        "image: [a:1]",
        "hideImage: true",
        "Image: a:1",
        "- image",
        "5",
        "",
        "# x",
    ],
)
def test_what_is_no_image_is_none(text: str) -> None:
    assert found(text) == []


def test_in_a_container_there_is_nothing_else_than_an_image() -> None:
    assert told("containers: [{image: 'No Image'}]\nimage: 'No Image'") == [("error", "invalid-image", 1)]


# ── other keys ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_that_may_mean_an_image_need_a_tag_or_digest() -> None:
    text = f"""\
    sandboxImage: rancher/pause:3.6
    helperImage: rancher/busybox
    default_image: "registry.lan:5000/a"
    jobImage: a@{DIGEST}
    DATA_IMAGE: b:1
    imagePullPolicy: Always
    """
    images, problems = find(text)
    assert [image.reference.familiar for image in images] == ["rancher/pause:3.6", f"a@{DIGEST}", "b:1"]
    assert [(item.severity, item.id, item.span.line if item.span else 0) for item in problems] == [
        ("note", "likely-image", 2),
        ("note", "likely-image", 3),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "image: {{ .Values.image }}",
        'image: "{{ .Values.image }}:{{ .Values.tag }}"',
        "image: ${IMAGE}",
        "image: $IMAGE",
        "sandboxImage: '{{ x }}'",
        "image: {repository: a, tag: '{{ x }}'}",
        "env: [{name: A_IMAGE, value: $(X)}]",
        "images: [{name: a, newTag: '${TAG}'}]",
        "containers: [{image: '<%= x %>'}]",
    ],
)
def test_a_placeholder_is_a_problem_with_its_place(text: str) -> None:
    assert told(f"a: 1\n{text}") == [("error", "placeholder", 2)]


def test_a_raw_template_is_told_to_be_one() -> None:
    _, (problem,) = find("{{- if .Values.x }}\nimage: a\n{{- end }}\n")
    assert "`helm template`" in problem.message


# ── Helm ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_arguments_of_a_container_that_name_an_image() -> None:
    found, problems = find_images(
        b"""kind: Deployment
spec:
  template:
    spec:
      containers:
        - image: quay.io/jetstack/cert-manager-controller:v1.14.0
          command: [run, "--helper-image=docker.io/team/helper:2"]
          args:
            - --acme-http01-solver-image=quay.io/jetstack/cert-manager-acmesolver:v1.14.0
            - --prometheus-config-reloader=quay.io/prometheus-operator/prometheus-config-reloader:v0.71.0
            - --listen=127.0.0.1:8080
            - --address=localhost:9
            - --sidecarImage=team/untagged
            - --image
  args: ["--image=not.in/a-container:1"]
""",
        "a.yaml",
    )
    assert [(item.text, item.path, item.span.line) for item in found] == [
        ("quay.io/jetstack/cert-manager-controller:v1.14.0", "spec.template.spec.containers[0].image", 6),
        ("docker.io/team/helper:2", "spec.template.spec.containers[0].command[1]", 7),
        ("quay.io/jetstack/cert-manager-acmesolver:v1.14.0", "spec.template.spec.containers[0].args[0]", 9),
    ]
    (note,) = problems
    assert (note.id, note.severity, note.span and note.span.line) == ("likely-image", "note", 10)
    assert "prometheus-config-reloader" in note.message


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("{registry: ghcr.io, repository: a/b, tag: v1}", "ghcr.io/a/b:v1"),
        ("{registry: ghcr.io/, repository: a/b, tag: v1}", "ghcr.io/a/b:v1"),
        ("{repository: quay.io/a/b, tag: '1.20'}", "quay.io/a/b:1.20"),
        ("{registry: '', repository: a, tag: 7}", "a:7"),
        ("{registry: null, repository: a, tag: 1.25}", "a:1.25"),
        (f"{{repository: a/b, tag: v1, digest: '{DIGEST}'}}", f"a/b:v1@{DIGEST}"),
        (f"{{repository: a/b, tag: '-no tag-', digest: '{DIGEST}'}}", f"a/b@{DIGEST}"),
        (f"{{repository: 'a/b:v2', tag: v1, digest: '{DIGEST}'}}", f"a/b:v2@{DIGEST}"),
        (f"{{repository: a/b, tag: 'v1@{DIGEST}'}}", f"a/b:v1@{DIGEST}"),
        (f"{{repository: a/b, tag: '{DIGEST}'}}", f"a/b@{DIGEST}"),
        ("{repository: 'a/b:v2', tag: ''}", "a/b:v2"),
    ],
)
def test_an_image_in_parts(value: str, name: str) -> None:
    assert found(f"image: {value}") == [name]
    assert found(f"controller:\n  webhookImage: {value}") == [name]


def test_parts_under_any_key_that_has_a_repository_and_a_tag() -> None:
    assert found("proxy: {repository: a/b, tag: v1}") == ["a/b:v1"]
    assert found("dependencies: [{name: a, repository: 'https://charts.example', version: '1'}]") == []


def test_what_only_the_chart_knows_is_told() -> None:
    text = """\
    global: {imageRegistry: registry.lan}
    image: {repository: a/b}
    other:
      image: {repository: c/d, tag: 1.20}
      sidecar: {image: e/f, tag: v3}
    """
    images, problems = find(text)
    assert [image.reference.familiar for image in images] == ["c/d:1.2", "e/f:v3"]
    assert [(item.severity, item.id, item.span.line if item.span else 0) for item in problems] == [
        ("note", "global-registry", 1),
        ("warning", "image-without-tag", 2),
        ("warning", "number-as-tag", 4),
        ("note", "joined-image", 5),
    ]


def test_values_in_a_string_have_their_own_lines() -> None:
    text = """\
    kind: HelmChart
    spec:
      valuesContent: |-
        a: 1
        image:
          repository: traefik
          tag: v3
    ---
    kind: ConfigMap
    data:
      helperPod.yaml: |
        spec:
          containers:
            - image: busybox:1
      folded.yaml: >
        image: folded:1

      quoted.yaml: "a: 1\\nimage: quoted:1\\n"
      note.txt: |
        image: no:1
    """
    images, problems = find(text)
    assert not problems
    assert [(image.reference.familiar, image.span.line, image.span.column, image.path) for image in images] == [
        ("traefik:v3", 6, 7, "spec.valuesContent.image"),
        ("busybox:1", 14, 18, "data['helperPod.yaml'].spec.containers[0].image"),
        ("folded:1", 15, 16, "data['folded.yaml'].image"),
        ("quoted:1", 18, 16, "data['quoted.yaml'].image"),
    ]


def test_a_string_in_a_string_has_its_own_column() -> None:
    text = """\
    data:
      a.yaml: |
        data:
          b.yaml: |
            image: x:1
    """
    ((image,), ()) = find(text)
    assert (image.span.line, image.span.column) == (5, 16)


def test_a_broken_string_spoils_nothing_else() -> None:
    assert told("valuesContent: |\n  a: [\n  b: c\nimage: a:1\n") == [("error", "unreadable-document", 4)]
    assert [image.reference.familiar for image in find("valuesContent: |\n  a: [\n  b: c\nimage: a:1\n")[0]] == ["a:1"]


# ── kustomize, and names in lists ────────────────────────────────────────────────────────────────────────────────


def test_a_kustomization_names_what_comes_in_the_place_of_others() -> None:
    text = f"""\
    kind: Kustomization
    images:
      - {{name: nginx, newName: registry.lan/nginx, newTag: "1.27"}}
      - {{name: redis, newTag: v7}}
      - {{name: postgres, newName: registry.lan/pg, newTag: x, digest: "{DIGEST}"}}
      - {{name: only}}
    """
    assert found(text) == ["registry.lan/nginx:1.27", "redis:v7", f"registry.lan/pg:x@{DIGEST}"]
    assert told("images: [{name: nginx, newName: registry.lan/nginx}]") == [("warning", "image-without-tag", 1)]


def test_lists_of_names() -> None:
    assert found("images:\n  - quay.io/a:1\n  - name: quay.io/b:2\n  - ubuntu\n") == ["quay.io/a:1", "quay.io/b:2"]


# ── aliases, limits, anything ────────────────────────────────────────────────────────────────────────────────────


def test_aliases_and_merges() -> None:
    text = """\
    x-base: &base {registry: ghcr.io, repository: a/b}
    x-name: &name c:1
    image: {<<: *base, tag: v1}
    a: {image: *name}
    b: {image: {<<: [*base, {tag: no}], tag: v2}}
    c: {image: *unknown}
    """
    assert found(text.replace("c: {image: *unknown}", "")) == ["ghcr.io/a/b:v1", "c:1", "ghcr.io/a/b:v2"]
    assert found(text)[-1] == "ghcr.io/a/b:v2"


def test_a_mapping_that_is_its_own_child_ends() -> None:
    assert found("&a\nimage: a:1\nb: *a\n<<: *a\nc: {image: *a}\n") == ["a:1"]


BOMB = "\n".join(["a0: &a0 {image: 'x:1'}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]" for n in range(1, 20))])
MERGES = "\n".join(
    ["big: &big", *(f"  k{n}: v" for n in range(20_000)), *(f"m{n}: {{<<: *big, x: 1}}" for n in range(20_000))]
)
LISTED = "\n".join(["i: &i", *(f"  - x:{n}" for n in range(5000)), *(f"m{n}: {{images: *i}}" for n in range(5000))])
NESTED = "\n".join(["n: &n |", *(f"  k{n}: v" for n in range(5000)), *(f"m{n}: {{values: *n}}" for n in range(5000))])


@pytest.mark.parametrize(("text", "count"), [(BOMB, 1), (MERGES, 0), (LISTED, 0), (NESTED, 0)])
def test_a_file_costs_no_more_than_it_holds(text: str, count: int) -> None:
    started = time.process_time()
    images, problems = find(text)
    assert (len(images), len(problems)) == (count, 0)
    assert time.process_time() - started < 20.0  # it is about a second, and would be hours


def test_depth_is_a_problem_and_no_crash() -> None:
    images, (problem,) = find("[" * 100_000 + "]" * 100_000 + "\n---\nimage: a:1\n")
    assert [image.reference.familiar for image in images] == ["a:1"]
    assert f"deeper than {DEPTH_LIMIT}" in problem.message
    assert found("[" * (DEPTH_LIMIT - 1) + "{image: a:1}" + "]" * (DEPTH_LIMIT - 1)) == ["a:1"]


def test_problems_are_told_to_a_limit() -> None:
    _, problems = find("containers:\n" + "- image: 'NO'\n" * (PROBLEMS_LIMIT + 500))
    assert len(problems) == PROBLEMS_LIMIT + 1
    assert problems[-1].id == "too-many-problems"


PIECES = st.sampled_from(
    [
        *["image", "images", "containers", "env", "values", "a.yaml", "repository", "tag", "digest", "name", "<<"],
        ": ",
        "\n",
        "\n  ",
        "\n- ",
        "- ",
        "---\n",
        "...\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "|\n  ",
        ">\n",
        "'",
        '"',
        "&a ",
        "*a",
        "{{ x }}",
        "a:1",
        "ghcr.io/a/b",
        "A B",
        "1.20",
        "null",
        "!!str ",
        "%YAML 1.2\n",
        "#",
        "\t",
        "\r",
        "\0",
        "é",
        "\ufeff",
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=40).map(lambda pieces: "".join(pieces).encode())))
@example(b"image: *a")
@example(b"\xff\xfe\x00")
@example(b"? [a, b]\n: image: c")
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_breaks_it(data: bytes) -> None:
    images, problems = find_images(data, "m.yaml")
    for image in images:
        assert Reference.parse(image.text) == image.reference
        assert image.span.line >= 1
    assert all(problem.span is not None and problem.message.isprintable() for problem in problems)


NAMES = st.from_regex(r"\A[a-z]{1,5}(?:\.[a-z]{2,3}/[a-z]{1,5})?:[a-z0-9]{1,4}\Z")
KEYS = st.sampled_from(["spec", "a", "b.c", "items", "Image x", "été"])
TREES = st.recursive(
    st.one_of(NAMES.map(lambda name: {"image": name}), st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=10,
)


def named(tree: object) -> list[str]:
    if isinstance(tree, list):
        return [name for item in tree for name in named(item)]
    if isinstance(tree, dict):
        return [name for key, item in tree.items() for name in ([item] if key == "image" else named(item))]
    return []


@given(st.lists(TREES, max_size=3), st.booleans(), st.booleans())
@settings(deadline=None)
def test_every_image_of_a_tree_is_found_where_it_stands(trees: list[object], flow: bool, as_json: bool) -> None:
    if as_json:
        text = "".join(f"---\n{json.dumps(tree)}\n" for tree in trees)
    else:
        text = yaml.safe_dump_all(trees, default_flow_style=flow, sort_keys=False, explicit_start=True)
    images, problems = find_images(text.encode(), "m.yaml")
    assert not problems
    assert [image.text for image in images] == [name for tree in trees for name in named(tree)]
    lines = text.split("\n")
    for image in images:
        line = lines[image.span.line - 1][image.span.column - 1 :]
        assert re.match(rf"[\"']?{re.escape(image.text)}", line)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_prints_a_list(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "a.yml").write_text("image: redis:7\n")
    (tmp_path / "b" / "c.json").write_text('{"image": "nginx", "x": {"image": "redis:7"}}')
    (tmp_path / "b" / "d.yaml").write_text("image: quay.io/a/b:1\n")
    (tmp_path / "b" / "notes.txt").write_text("image: no:1\n")
    (tmp_path / ".git" / "e.yaml").write_text("image: no:2\n")
    ran = run_pierhead("images-from", "-", tmp_path, stdin="image: first:1\n")
    names = ["docker.io/library/first:1", "docker.io/library/redis:7", "docker.io/library/nginx:latest"]
    assert ran.out.splitlines() == [*names, "quay.io/a/b:1"]
    assert ran.err == ""
    listed, problems = read_list(ran.out, "-")
    assert [str(item.reference) for item in listed] == ran.out.splitlines()
    assert not problems


def test_a_tag_beside_a_digest_stays_in_the_list(tmp_path: Path) -> None:
    names = [
        *(f"redis@{DIGEST}", f"redis:7@{DIGEST}", f"docker.io/library/redis:7@{DIGEST}", f"redis:7.4@{DIGEST}"),
        *("redis:7", f"localhost:5000/a/b@{DIGEST}", f"localhost:5000/c:1@{DIGEST}"),
    ]
    file = tmp_path / "m.yaml"
    file.write_text("".join(f"---\nimage: {name}\n" for name in names))
    expected = [
        f"docker.io/library/redis:7@{DIGEST}",
        f"docker.io/library/redis:7.4@{DIGEST}",
        "docker.io/library/redis:7",
        f"localhost:5000/a/b@{DIGEST}",
        f"localhost:5000/c:1@{DIGEST}",
    ]
    assert run_pierhead("images-from", file).out.splitlines() == expected
    told = json.loads(run_pierhead("images-from", "-o", "json", file).out)["images"]
    assert [image["reference"] for image in told] == expected
    assert [[place["text"] for place in image["places"]] for image in told[:2]] == [names[:3], names[3:4]]


def test_the_command_in_json(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("image: redis:7\nspec: {image: docker.io/library/redis:7}\n---\ncontainers: [{image: N O}]\n")
    ran = run_pierhead("images-from", "-o", "json", file, code=6)
    told = json.loads(ran.out)
    assert told["images"] == [
        {
            "reference": "docker.io/library/redis:7",
            "places": [
                {"file": str(file), "line": 1, "column": 8, "path": "image", "text": "redis:7"},
                {"file": str(file), "line": 2, "column": 15, "path": "spec.image", "text": "docker.io/library/redis:7"},
            ],
        }
    ]
    (problem,) = told["problems"]
    assert (problem["id"], problem["severity"], problem["file"], problem["line"]) == (
        "invalid-image",
        "error",
        str(file),
        4,
    )
    assert ran.err == ""


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("image: a:1\n---\n[\n", 6, ":4:1: the document cannot be read"),
        ("[\n", 1, "no image is named"),
        ("a: 1\n", 0, "no image is named"),
        ("helperImage: a\n", 0, "note:"),
    ],
)
def test_exit_codes(tmp_path: Path, text: str, code: int, said: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    assert said in run_pierhead("images-from", file, code=code).err


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in run_pierhead("images-from", tmp_path / "missing.yaml", code=2).err
    assert "once only" in run_pierhead("images-from", "-", "-", code=2).err


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/reference/images-from.md").read_text("utf-8")
    blocks = dict(re.findall(r"^```(yaml|console|json)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "app.yaml").write_text(blocks["yaml"])
    ran = run_pierhead("images-from", "app.yaml", code=6, prefix=("env", "-C", str(tmp_path)))
    assert f"$ pierhead images-from app.yaml\n{ran.out}{ran.err}" == blocks["console"]
    shown, told = (
        json.loads(blocks["json"]),
        json.loads(
            run_pierhead("images-from", "app.yaml", "-o", "json", code=6, prefix=("env", "-C", str(tmp_path))).out
        ),
    )
    assert shown["images"] == told["images"][:1]
    assert shown["problems"] == [item for item in told["problems"] if item["id"] == "placeholder"]
