"""Finding weights and fetching them: a hub cache that the test makes, servers on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from slidemill.cli import app
from slidemill.errors import WeightsError
from slidemill.features import download as downloads
from slidemill.features.spec import EncoderSpec, HubFile, UrlFile
from slidemill.features.weights import (
    find_weights,
    folder_by_hand,
    how_to_get,
    is_on_disk,
    path_by_hand,
    weights_of_file,
)

CONTENT = b"weights of a network" * 1000
PLAIN = frozenset({"http"})


def row(name="some", builder="timm", weights=None, **fields):
    return EncoderSpec(
        name=name,
        builder=builder,
        outputs=("cls",),
        width=8,
        tile_px=224,
        mpp=0.5,
        precision="fp32",
        licence="MIT",
        page="https://example.org",
        weights=weights,
        **fields,
    )


HUB = row(weights=HubFile("owner/model", "model.safetensors"))
GATED = row("gated/one", weights=HubFile("owner/gated", "deep/own.bin", gated=True))
NOTHING = row(
    "none", builder="none", missing="the company keeps them", alternatives=("uni", "uni2")
)
HANDMADE = row("made", builder="handcrafted")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Neither the folder by hand nor the cache of this machine."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("SLIDEMILL_WEIGHTS", str(tmp_path / "by-hand"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(cache), raising=False)
    return tmp_path


def in_cache(root, repository, filename):
    snapshot = root / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
    path = snapshot / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text("abc")
    return path


def test_a_file_by_hand_goes_before_the_cache(folders):
    cached = in_cache(folders, "owner/model", "model.safetensors")
    assert find_weights(HUB).path == cached
    path = path_by_hand(HUB)
    assert path == folders / "by-hand" / "some" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    assert find_weights(HUB).path == path
    assert find_weights(HUB).sha256 == hashlib.sha256(b"another").hexdigest()


def test_names_of_encoders_are_made_safe(folders):
    assert folder_by_hand(row("timm:x/../y")).parent == folders / "by-hand"
    assert folder_by_hand(row("timm:x")).name == "timm-x"


def test_the_default_folder_is_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("SLIDEMILL_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_by_hand(HUB) == tmp_path / ".cache" / "slidemill" / "weights" / "some"


@pytest.mark.parametrize(
    ("spec", "published", "found"),
    [
        (HUB, "model.safetensors", True),
        (HUB, "pytorch_model.bin", True),
        (HUB, "other.bin", False),
        (GATED, "deep/own.bin", True),
        (GATED, "model.safetensors", False),
    ],
)
def test_usual_names_stand_for_each_other_and_own_names_do_not(folders, spec, published, found):
    in_cache(folders, spec.weights.repository, published)
    assert is_on_disk(spec) is found


def test_a_changed_file_has_another_sha256(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"1")
    first = weights_of_file(path).sha256
    path.write_bytes(b"22")
    assert weights_of_file(path).sha256 != first
    with pytest.raises(WeightsError, match="no such checkpoint"):
        weights_of_file(tmp_path / "none.bin")


def test_missing_weights_say_every_way_to_have_them(folders):
    with pytest.raises(WeightsError) as caught:
        find_weights(GATED)
    said = str(caught.value)
    assert "Accept the terms at https://huggingface.co/owner/gated" in said
    assert "HF_TOKEN" in said
    assert "HF_HOME" in said
    assert "slidemill encoders download gated/one" in said
    assert str(folders / "by-hand" / "gated-one" / "own.bin") in said
    assert "Accept" not in how_to_get(HUB)
    assert "SLIDEMILL_WEIGHTS" in how_to_get(
        row(weights=UrlFile("https://example.org/a.pth", "https://example.org"))
    )
    assert "needs timm's tag" in how_to_get(row("timm:resnet50", weights=HubFile("timm/resnet50")))


def test_rows_without_weights(folders):
    assert is_on_disk(HANDMADE)
    assert not is_on_disk(NOTHING)
    for ask in (find_weights, downloads.download, path_by_hand):
        with pytest.raises(WeightsError, match=r"company keeps them. Choose uni or uni2"):
            ask(NOTHING)


def test_a_name_that_no_repository_can_have(folders):
    with pytest.raises(WeightsError, match="not on this machine"):
        find_weights(row(weights=HubFile("a/b/c d")))
    with pytest.raises(WeightsError, match="no such page"):
        downloads.download(row(weights=HubFile("a/b/c d")))


def test_offline_is_said_with_what_to_do(folders, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="cannot be reached") as caught:
        downloads.download(HUB)
    assert "HF_HOME" in str(caught.value)
    assert str(path_by_hand(HUB)) in str(caught.value)


def test_what_lies_by_hand_needs_no_network(folders, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for spec in (HUB, row("url", weights=UrlFile("https://example.org/a.pth", "page"))):
        path = path_by_hand(spec)
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        assert downloads.download(spec).path == path


class Handler(BaseHTTPRequestHandler):
    """Files, a page that is gated as the hub says it, and answers that go wrong."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path.startswith("/owner/gated"):
            self.answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept terms"})
        elif self.path.startswith("/owner/missing"):
            self.answer(404, {"X-Error-Code": "RepoNotFound"})
        elif self.path.startswith("/owner/model/resolve/main/pytorch_model.bin"):
            self.answer(200, {"X-Repo-Commit": "c" * 40, "ETag": '"etag"'}, CONTENT)
        elif self.path.startswith("/owner/"):
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "c" * 40})
        elif self.path == "/whole.pth":
            self.answer(200, {}, CONTENT)
        elif self.path == "/torn.pth":
            self.answer(200, {"Content-Length": str(len(CONTENT) + 5)}, CONTENT)
        elif self.path == "/away.pth":
            self.answer(302, {"Location": "ftp://127.0.0.1/whole.pth"})
        elif self.path == "/moved.pth":
            self.answer(302, {"Location": "/whole.pth"})
        else:
            self.answer(404, {})

    def answer(self, status, headers, content=b""):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture
def hub(server, monkeypatch):
    """The hub's own library, talking to the server above."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server)
    template = server + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(
        "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
    )
    return server


def test_a_gated_page_asks_to_accept_its_terms(hub):
    with pytest.raises(
        WeightsError, match=r"owner/gated is gated: accept its terms.*HF_TOKEN.*put the file at"
    ):
        downloads.download(GATED)


def test_a_page_that_is_not_there(hub):
    with pytest.raises(WeightsError, match="no such page"):
        downloads.download(row(weights=HubFile("owner/missing")))
    with pytest.raises(WeightsError, match=r"has none of own\.bin"):
        downloads.download(row(weights=HubFile("owner/model", "own.bin")))


def test_the_other_usual_name_is_fetched_and_found(hub):
    assert not is_on_disk(HUB)
    weights = downloads.download(HUB)
    assert weights.path.name == "pytorch_model.bin"
    assert weights.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert find_weights(HUB) == weights


@pytest.mark.parametrize("name", ["whole.pth", "moved.pth"])
def test_files_at_an_address_of_their_own(server, folders, name):
    target = folders / "deep" / "a.pth"
    downloads.fetch(UrlFile(f"{server}/{name}", "page"), target, _schemes=PLAIN)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("torn.pth", "ended after"), ("none.pth", "404"), ("away.pth", "not https")],
)
def test_a_failed_download_leaves_nothing_and_says_where_to_look(server, folders, name, reason):
    target = folders / "a.pth"
    url = f"{server}/{name}"
    with pytest.raises(WeightsError, match=reason) as caught:
        downloads.fetch(UrlFile(url, "https://example.org/page"), target, _schemes=PLAIN)
    for part in (url, "https://example.org/page", str(target)):
        assert part in str(caught.value)
    assert list(folders.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(server, folders, monkeypatch):
    def interrupted(url, path, schemes):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        downloads.fetch(UrlFile(f"{server}/whole.pth", "page"), folders / "a.pth")
    assert list(folders.iterdir()) == []


def test_only_https_is_spoken(server, folders):
    with pytest.raises(WeightsError, match="not https"):
        downloads.fetch(UrlFile(f"{server}/whole.pth", "page"), folders / "a.pth")


def test_the_command_takes_several_names_and_every_kind_of_row(folders, monkeypatch):
    rows = {spec.name: spec for spec in (HUB, HANDMADE, NOTHING)}
    monkeypatch.setattr("slidemill.features.encoders.find_spec", rows.__getitem__)
    path = path_by_hand(HUB)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    done = CliRunner().invoke(app, ["encoders", "download", "made", "some"])
    assert done.exit_code == 0
    assert "made needs no weights" in done.output
    assert f"{path} {hashlib.sha256(CONTENT).hexdigest()}" in done.output
    done = CliRunner().invoke(app, ["encoders", "download", "none", "some"])
    assert isinstance(done.exception, WeightsError)
    assert "company keeps them" in str(done.exception)
    assert str(path) in done.output
