"""`pierhead seed` as people run it: real processes, a mirror that is `pierhead serve`, what is printed and written."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Ran, Served, run_pierhead, serve, start_pierhead, write_registries
from images import make_image
from pierhead.layout import LayoutStore
from real import eventually
from staged import Staged
from stocked import stock

PAUSE = make_image(layers=[1000, 10], compression="none")
REDIS = make_image(layers=[1000, 2000], platforms=["linux/amd64", "linux/arm64"])
LARGE = make_image(layers=[400_000], compression="none")
LIST = "\ufeffrancher/pause:3.6\r\n\r\n# what else\r\ndocker.io/library/redis:7  # cache\r\nrancher/pause:3.6\r\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the images of the list."""
    root = tmp_path_factory.mktemp("source") / "root"
    store = LayoutStore(root)
    for name, tag, image in (("rancher/pause", "3.6", PAUSE), ("library/redis", "7", REDIS)):
        stock(store, image, name, tag, namespace="docker.io")
    return root


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "mirror") as served:
        yield served


@pytest.fixture
def nodes(tmp_path: Path, mirror: Served) -> Path:
    return write_registries(
        tmp_path,
        f"""mirrors:
  docker.io:
    endpoint: ["{mirror.url}"]
    rewrite:
      "^rancher/(.*)": "mirror/$1"
""",
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "k3s-images.txt"
    path.write_text(LIST, newline="")
    return path


def seed(nodes: Path, source: Path, *arguments: str | Path, code: int = 0, stdin: str = "") -> Ran:
    common = ("seed", "--private-registry", nodes, "--from", "store", "--root", source)
    return run_pierhead(*common, *arguments, code=code, stdin=stdin)


def test_a_list_is_seeded_proved_and_a_second_time_there_is_nothing_to_do(
    nodes: Path, source: Path, images: Path, mirror: Served, tmp_path: Path
) -> None:
    reports = [tmp_path / "proof.json", tmp_path / "proof.md"]
    ran = seed(nodes, source, "--images", images, "--report", reports[0], "--report", reports[1])
    pause, redis, done, ready = ran.out.splitlines()
    assert pause.startswith(f"docker.io/rancher/pause:3.6  seeded  {mirror.url} mirror/pause:3.6  sent ")
    assert redis.startswith(f"docker.io/library/redis:7  seeded  {mirror.url} library/redis:7  sent ")
    assert done.startswith("seeded 2 of 2; sent ")
    assert ready == "air-gap ready: 2/2 images, linux/amd64 2, linux/arm64 1 (missing: docker.io/rancher/pause:3.6)"

    document = json.loads(reports[0].read_text())
    assert document["summary"]["air_gap_ready"] is True
    assert [image["digest"] for image in document["images"]] == [PAUSE.digest, REDIS.digest]
    (there,) = document["images"][0]["destinations"]
    assert there["verified"] == {"order": 1, "endpoint": mirror.url}
    assert there["rewrite"] == {"pattern": "^rancher/(.*)", "replacement": "mirror/$1", "line": 5}
    assert [item["platform"] for item in document["images"][1]["platforms"]] == ["linux/amd64", "linux/arm64"]
    text = reports[1].read_text()
    assert f"**{ready}**" in text
    for item in REDIS.manifest["manifests"]:
        assert item["digest"] in text

    again = seed(nodes, source, "--images", images, "--report", reports[0])
    assert again.out.splitlines()[2:] == ["nothing to do: 2 of 2 are there", ready]
    assert json.loads(reports[0].read_text())["summary"]["sent_bytes"] == 0

    # What a node pulls is what was seeded.
    store = tmp_path / "node"
    pulled = run_pierhead(
        *("pull", "--private-registry", nodes, "--root", store, "-o", "json", "--disable-default-registry-endpoint"),
        *("--platform", "all", "rancher/pause:3.6", "redis:7"),
    )
    assert [image["digest"] for image in pulled.images] == [PAUSE.digest, REDIS.digest]


def test_an_image_that_manifests_pin_is_found_by_its_digest_and_by_its_tag(
    nodes: Path, source: Path, tmp_path: Path
) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(f"kind: Pod\nspec:\n  containers:\n    - image: redis:7@{REDIS.digest}\n")
    names = run_pierhead("images-from", pod).out
    assert names == f"docker.io/library/redis:7@{REDIS.digest}\n"
    assert "seeded 1 of 1" in seed(nodes, source, "--images", "-", stdin=names).out
    node = ("--private-registry", nodes, "--disable-default-registry-endpoint")
    for name in (f"redis@{REDIS.digest}", "redis:7", names.strip()):
        assert run_pierhead("digest", *node, name).out == f"{REDIS.digest}\n"


def test_json_tells_all_of_it(nodes: Path, source: Path, mirror: Served) -> None:
    ran = seed(nodes, source, "-o", "json", "rancher/pause:3.6", "rancher/gone:1", code=6)
    document = json.loads(ran.out)
    pause, gone = document["images"]
    assert (pause["outcome"], pause["source"], pause["exit_code"]) == ("seeded", f"the store {source}", 0)
    assert pause["destinations"][0]["repository"] == "mirror/pause"
    assert gone["outcome"] == "failed"
    assert gone["exit_code"] == 3
    assert [item["source"] for item in gone["tried"]] == [f"the store {source}"]
    assert document["summary"]["failed"] == 1
    assert "error: docker.io/rancher/gone:1 is at none of the places" in ran.err


def test_a_single_image_that_fails_ends_with_its_own_code(nodes: Path, source: Path) -> None:
    seed(nodes, source, "rancher/gone:1", code=3)


def test_a_dry_run_prints_the_map_and_asks_nobody(source: Path, tmp_path: Path, images: Path, closed_port: str) -> None:
    nodes = write_registries(
        tmp_path,
        f'mirrors:\n  docker.io:\n    endpoint: ["http://{closed_port}"]\n'
        '    rewrite: {"^rancher/(.*)": "mirror/$1"}\n',
    )
    ran = seed(nodes, source, "--images", images, "--dry-run")
    assert [line.split() for line in ran.out.splitlines()[:3]] == [
        ["IMAGE", "ENDPOINT", "THERE", "RULE"],
        [
            "docker.io/rancher/pause:3.6",
            f"http://{closed_port}",
            "mirror/pause:3.6",
            *("^rancher/(.*)", "->", "mirror/$1", "(line", "4)"),
        ],
        ["docker.io/library/redis:7", f"http://{closed_port}", "library/redis:7"],
    ]
    assert ran.out.splitlines()[3] == "2 images, no errors"
    ran = seed(nodes, source, "--images", images, "--dry-run", "quay.io/a:1", "-o", "json", code=1)
    listed = json.loads(ran.out)["images"]
    assert [item["problem"] and item["problem"]["id"] for item in listed] == ["unmirrored", None, None]
    ran = seed(nodes, source, "--images", images, "--dry-run", "quay.io/a:1", code=1)
    assert ran.err.splitlines() == [
        "error: quay.io/a:1: quay.io has no mirror, a node asks only quay.io itself",
        "hint: give its registry a mirror in registries.yaml; --allow unmirrored leaves it out",
    ]
    seed(nodes, source, "--images", images, "--dry-run", "quay.io/a:1", "--allow", "unmirrored")


def test_only_what_is_new_in_a_release_is_sent(
    nodes: Path, source: Path, images: Path, mirror: Served, tmp_path: Path
) -> None:
    old = tmp_path / "old.txt"
    old.write_text("docker.io/rancher/pause:3.6\n")
    ran = seed(nodes, source, "--images", images, "--since", old, "-o", "json")
    document = json.loads(ran.out)
    assert [image["reference"] for image in document["images"]] == ["docker.io/library/redis:7"]
    assert document["known_before"] == 1
    assert "rancher" not in (mirror.root.with_name("mirror.log")).read_text()
    ran = seed(nodes, source, "rancher/pause:3.6", "--since", old)
    assert ran.out == "nothing to do: 1 image known from before\n"


def test_a_bad_line_is_told_and_the_rest_goes_on(nodes: Path, source: Path) -> None:
    ran = seed(nodes, source, "--images", "-", stdin="rancher/pause:3.6\nnot a name\n", code=6)
    assert "-:2:1: " in ran.err
    assert "seeded 1 of 1" in ran.out


def test_a_bad_line_is_in_the_report_and_nobody_is_told_that_all_is_ready(
    nodes: Path, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "images.txt").write_text("rancher/pause:3.6\nnot a name\n")
    report = (tmp_path / "proof.md", tmp_path / "proof.json")
    ran = seed(nodes, source, "--images", tmp_path / "images.txt", *(f"--report={path}" for path in report), code=6)
    assert "not air-gap ready: 1/1 image, " in ran.out
    assert "1 line of the list without an image" in ran.out
    text = report[0].read_text()
    assert "**not air-gap ready" in text
    assert "## Not understood" in text
    assert "images.txt:2: 'not a name'" in text
    assert json.loads(report[1].read_text())["summary"]["air_gap_ready"] is False


def test_a_report_of_images_that_nobody_has_says_that_nothing_is_ready(
    nodes: Path, source: Path, tmp_path: Path
) -> None:
    seed(nodes, source, f"--report={tmp_path / 'proof.md'}", "nobody/has-it:1", code=3)
    assert "**not air-gap ready: 0/1 image**" in (tmp_path / "proof.md").read_text()


def test_quiet_says_what_it_came_to_and_nothing_else(nodes: Path, source: Path) -> None:
    ran = seed(nodes, source, "-q", "rancher/pause:3.6")
    assert ran.err == ""
    assert ran.out.splitlines()[0].startswith("seeded 1 of 1; sent ")


def test_a_tag_that_moved_since_it_was_locked_is_an_error_with_both_digests(
    nodes: Path, source: Path, mirror: Served, tmp_path: Path
) -> None:
    lock = tmp_path / "images.lock"
    other = make_image(layers=[77])
    image = {
        "name": "docker.io/rancher/pause:3.6",
        "digest": other.digest,
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "platforms": [],
        "size_bytes": 1,
    }
    lock.write_text(json.dumps({"version": 1, "images": [image]}))
    ran = seed(nodes, source, "--locked", lock, "rancher/pause:3.6", code=1)
    assert other.digest in ran.err
    assert PAUSE.digest in ran.err
    assert "POST" not in mirror.root.with_name("mirror.log").read_text()
    lock.write_text(json.dumps({"version": 1, "images": [image | {"digest": PAUSE.digest}]}))
    seed(nodes, source, "--locked", lock, "rancher/pause:3.6")
    seed(nodes, source, "--locked", lock, "redis:7", code=3)


def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    nodes: Path, source: Path, tmp_path: Path, mirror: Served
) -> None:
    for arguments, said in (
        ((), "no image is named"),
        (("--to", "https://nobody.example", "redis:7"), f"it has: {mirror.url}"),
        (("--from", "registry.lan:5000", "redis:7"), "https://registry.lan:5000"),
        (("--from", "oci:/nonexistent", "redis:7"), "no such file or folder"),
        (("--from", "https://user:hunter2@registry.lan", "redis:7"), "--src-creds"),
        (("--report", tmp_path / "proof.txt", "redis:7"), "neither in .json nor in .md"),
        (("--report", tmp_path / "no" / "proof.md", "redis:7"), "is no folder"),
        (("--platform", "all", "--platform", "linux/amd64", "redis:7"), "leaves nothing to add"),
        (("--platform", "linux/arm/v7/and/more", "redis:7"), "is not a platform"),
        (("--locked", tmp_path / "no.lock", "--dry-run", "redis:7"), "cannot be read"),
        (("--platform", "linux/arm/v7/and/more", "--dry-run", "redis:7"), "is not a platform"),
        (("--images", "-", "--since", "-"), "both read standard input"),
        (("--dest-password-stdin", "redis:7"), "--dest-creds"),
    ):
        ran = seed(nodes, source, *arguments, code=2)
        assert said in ran.err, ran.said
        assert "hunter2" not in ran.err
    assert mirror.root.with_name("mirror.log").read_text().count("HTTP") == 0


def test_what_is_not_for_a_platform_that_was_asked_for_is_not_all_done(nodes: Path, source: Path) -> None:
    ran = seed(nodes, source, "--platform", "linux/arm64", "redis:7", "rancher/pause:3.6", code=6)
    assert ran.out.splitlines()[2].startswith("seeded 2 of 2; sent ")
    missing = "linux/arm64 1 (missing: docker.io/rancher/pause:3.6)"
    assert ran.out.splitlines()[3].startswith("not air-gap ready: 2/2 images, ")
    assert missing in ran.out


def test_a_collision_is_told_once(tmp_path: Path, source: Path, mirror: Served) -> None:
    nodes = write_registries(tmp_path, f'mirrors: {{"*": {{endpoint: ["{mirror.url}"]}}}}\n')
    ran = seed(nodes, source, "quay.io/team/a:1", "ghcr.io/team/a:1", code=6)
    assert ran.err.count("quay.io/team/a:1 and ghcr.io/team/a:1 both end at") == 1


def test_an_interrupted_seeding_ends_at_once_and_a_second_one_does_the_rest(tmp_path: Path, mirror: Served) -> None:
    layer = LARGE.manifest["layers"][0]["digest"]
    with Staged(LARGE) as upstream:
        nodes = write_registries(tmp_path, f'mirrors: {{"{upstream.address}": {{endpoint: ["{mirror.url}"]}}}}\n')
        name = f"{upstream.address}/team/app:1"
        arguments = ("seed", "--private-registry", nodes, "--src-plain-http", name)
        with upstream.held(layer, at=100_000), start_pierhead(*arguments) as running:
            eventually(lambda: upstream.is_held(layer), what="the layer to come")
            ran = running.signal(signal.SIGINT)
        assert ran.code == 130
        assert ran.err.endswith("interrupted\n")
        ran = run_pierhead(*arguments)
        assert "seeded 1 of 1" in ran.out
        assert run_pierhead(*arguments).out.splitlines()[1] == "nothing to do: 1 of 1 is there"


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals that whoever runs the tests may have had ignored, as nohup does, which children inherit."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
)
def test_an_interrupted_seeding_reports_what_was_done_and_that_this_is_not_all(
    tmp_path: Path, source: Path, mirror: Served, number: signal.Signals, code: int
) -> None:
    layer = LARGE.manifest["layers"][0]["digest"]
    reports = tmp_path / "proof.json", tmp_path / "proof.md"
    pause, redis = "docker.io/rancher/pause", "docker.io/library/redis"
    small = [f"{pause}:3.6", f"{redis}:7", f"{pause}@{PAUSE.digest}", f"{redis}@{REDIS.digest}"]
    with Staged(LARGE) as upstream:
        own = f"{{endpoint: ['{mirror.url}']}}"
        nodes = write_registries(tmp_path, f"mirrors: {{docker.io: {own}, '{upstream.address}': {own}}}\n")
        names = [*small, f"{upstream.address}/team/app:1"]
        arguments: list[str | Path] = ["seed", "--private-registry", nodes, "-j", "1", *names]
        arguments += ["--root", source, "--from", "store", "--from", "upstream", "--src-plain-http"]
        arguments += [f"--report={path}" for path in reports]
        with upstream.held(layer, at=100_000), start_pierhead(*arguments) as running:
            # Four images at once: the fifth is begun when one of those is done.
            eventually(lambda: upstream.is_held(layer), what="the layer to come")
            ran = running.signal(number)
        assert ran.code == code
        assert ran.err.endswith("interrupted\n")
        document, text = json.loads(reports[0].read_text()), reports[1].read_text()
        done = [image["reference"] for image in document["images"]]
        assert document["interrupted"] is True
        assert names[4] in document["unfinished"]
        assert done
        assert sorted([*done, *document["unfinished"]]) == sorted(names)
        assert {image["outcome"] for image in document["images"]} == {"seeded"}
        summed = document["summary"]
        assert (summed["images"], summed["left_out"], summed["air_gap_ready"]) == (5, 0, False)
        assert "**not air-gap ready: 0/5 images" in text
        assert f"\nInterrupted before all of it was done and proved. Done by then: {len(done)} of 5 images.\n" in text
        assert text.endswith("## Not done\n\n" + "".join(f"- {name}\n" for name in document["unfinished"]))
        assert f"| {done[0]} | linux/amd64 |" in text
        assert "| not verified |" in text

        run_pierhead(*arguments)
        document = json.loads(reports[0].read_text())
        assert (document["interrupted"], document["unfinished"]) == (False, [])
        assert document["summary"]["air_gap_ready"] is True
        assert "nterrupted" not in reports[1].read_text()


def test_a_report_that_cannot_be_written_is_told_after_what_was_seeded(nodes: Path, source: Path) -> None:
    ran = seed(nodes, source, "--report", "/proc/proof.json", "rancher/pause:3.6", code=1)
    assert "cannot write the report /proc/proof.json" in ran.err
    assert "seeded 1 of 1" in ran.out


def test_secrets_of_either_side_show_nowhere(tmp_path: Path, source: Path, mirror: Served) -> None:
    nodes = write_registries(
        tmp_path,
        f'mirrors: {{docker.io: {{endpoint: ["{mirror.url}"]}}}}\n'
        f'configs: {{"{mirror.address}": {{auth: {{username: node, password: hunter2}}}}}}\n',
    )
    trace = tmp_path / "trace"
    ran = seed(
        nodes,
        source,
        *("--trace", trace, "--dest-creds", "writer:hunter3", "--src-creds", "reader:hunter4", "rancher/pause:3.6"),
        *("--report", tmp_path / "proof.md", "--report", tmp_path / "proof.json"),
    )
    written = [path.read_text() for path in (trace, tmp_path / "proof.md", tmp_path / "proof.json")]
    assert "hunter" not in "".join([ran.out, ran.err, *written])


def test_a_thousand_images_are_mapped_in_no_time(tmp_path: Path, nodes: Path, source: Path) -> None:
    images = tmp_path / "many.txt"
    images.write_text("".join(f"rancher/image-{number}:v1\n" for number in range(1000)))
    ran = seed(nodes, source, "--images", images, "--dry-run")
    assert ran.out.splitlines()[-1] == "1000 images, no errors"
