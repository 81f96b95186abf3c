"""An export is uploaded to a Hub of the test's own, on this machine, and timm loads what arrived there."""

from __future__ import annotations

import base64
import functools
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

from coterie.errors import CoterieError, RunError
from coterie.export import export_run


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload of small files asks for."""

    def log_message(self, *arguments):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.answer({})

    def do_GET(self):
        self.answer({"id": "user/name", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"]))
        address = "https://huggingface.co/user/name"  # huggingface_hub reads no other host
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer({"url": address})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]}
            )
        elif "/commit/" in self.path and self.server.refuses:
            self.answer({"error": "no leave"}, self.server.refuses)
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{address}/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self.answer({})


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.created, server.files, server.refuses = [], [], {}, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=endpoint))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_folder_arrives_as_it_is_and_timm_loads_it(hub, run_maker, tmp_path):
    method = run_maker(tmp_path / "run", "resnet18", (3, 32, 32), at="layer4")
    folder = export_run(tmp_path / "run", "timm", tmp_path / "export", push="user/name", private=True)
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    (made,) = hub.created
    assert made.get("private") or made["visibility"] == "private"  # older versions of huggingface_hub, and newer ones
    assert (made.get("organization"), made["name"]) == ("user", "name")
    assert {token for _, token in hub.requests} == {"Bearer hf_test"}
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in hub.files.items():
        (arrived / name).write_bytes(content)
    network = timm.create_model(f"local-dir:{arrived}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), method.group(images).logits[method.deployed_student])
    assert 'create_model("hf-hub:user/name", pretrained=True)' in (folder / "README.md").read_text()


@pytest.mark.slow
def test_what_the_hub_refuses_is_said_and_the_folder_stays(hub, small_run, tmp_path):
    hub.refuses = 403
    with pytest.raises(RunError, match=r"is written, but was not pushed to http://127\.0\.0\.1.*/user/name: .*403"):
        export_run(small_run[0], "onnx", tmp_path / "export", push="user/name")
    assert (tmp_path / "export" / "model.onnx").is_file()
    assert not hub.files


@pytest.mark.parametrize("name", ["name", "a/b/c", "user/", "user/my network", "user/a--b"])
def test_other_names_are_refused(hub, small_run, tmp_path, name):
    with pytest.raises(CoterieError, match=f"--push '{name}'"):
        export_run(small_run[0], "timm", tmp_path / "export", push=name)
    assert not (tmp_path / "export").exists()


def test_it_is_refused_before_the_export_without_token_or_network(hub, small_run, tmp_path, monkeypatch):
    def refused(match):
        with pytest.raises(CoterieError, match=match):
            export_run(small_run[0], "timm", tmp_path / "export", push="user/name")
        assert not Path(tmp_path / "export").exists()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=closed))
        refused(f"cannot reach {closed}")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "get_token", lambda: None)
        refused("needs a token")
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        refused("HF_HUB_OFFLINE")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "huggingface_hub", None)
        refused("needs huggingface_hub")
    with pytest.raises(CoterieError, match="--private is of a repository"):
        export_run(small_run[0], "timm", tmp_path / "export", private=True)
