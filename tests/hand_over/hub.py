"""A small Hub on this machine: the endpoints that an upload speaks, in a thread of the test.

Real huggingface_hub calls of another process talk to it over HTTP: whoami, creating a repository, its
info, the preupload question, git-lfs' batch and upload, and the commit.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "a" * 34


class Hub:
    """Start with `with`; `address` goes into HF_ENDPOINT.

    Attributes:
        repos: name -> `private`, and `files` (path -> bytes).
        seen: method and path of every request.
        breaks: a part of a path whose requests are answered with status 500, or cut off.
    """

    def __init__(self, breaks="", status=500):
        self.repos, self.seen, self.blobs = {}, [], {}
        self.breaks, self.status = breaks, status
        handler = type("Bound", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _reply(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _handle(self, method):
        hub, path = self.hub, self.path.partition("?")[0]
        hub.seen.append(f"{method} {path}")
        body = self._body()
        if hub.breaks and hub.breaks in path:
            self._reply({"error": "as told"}, hub.status)
            return
        if path.startswith("/upload/"):  # what object storage does: no token there
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/upload/")
            hub.blobs[path.removeprefix("/upload/")] = body
            self._reply({})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply({"error": "Invalid username or password."}, 401)
            return
        self._hub(method, path, body)

    def _hub(self, method, path, body):
        hub = self.hub
        if path == "/api/whoami-v2":
            self._reply({"name": "me", "type": "user", "auth": {}})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            status = 409 if name in hub.repos else 200
            hub.repos.setdefault(name, {"private": _private(asked), "files": {}})
            self._reply({"url": f"{hub.address}/{name}"}, status)
        elif path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            self._reply({"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            self._reply({"transfer": "basic", "objects": [self._lfs(o) for o in objects]})
        elif path.startswith("/api/models/"):
            self._model(method, path.removeprefix("/api/models/").split("/"), body)
        else:
            self._reply({"error": "no such endpoint"}, 404)

    def _lfs(self, wanted):
        found = {"oid": wanted["oid"], "size": wanted["size"]}
        where = f"{self.hub.address}/upload/{wanted['oid']}"
        return found | {"actions": {"upload": {"href": where, "header": {}}}}

    def _model(self, method, parts, body):
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in self.hub.repos:
            self._reply({"error": "Repository not found"}, 404)
        elif rest[:1] == ["preupload"]:
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            self._reply({"files": files})
        elif rest[:1] == ["tree"]:
            files = self.hub.repos[name]["files"].items()
            self._reply(
                [{"type": "file", "path": p, "oid": "0" * 40, "size": len(b)} for p, b in files]
            )
        elif rest[:1] == ["commit"] and method == "POST":
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        else:
            repo = self.hub.repos[name]
            self._reply({"id": name, "private": repo["private"], "sha": "0" * 40, "siblings": []})

    def _commit(self, name, lines):
        files = self.hub.repos[name]["files"]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        address = f"{self.hub.address}/{name}/commit/{'1' * 40}"
        self._reply({"success": True, "commitOid": "1" * 40, "commitUrl": address})

    def do_GET(self):
        self._handle("GET")

    def do_POST(self):
        self._handle("POST")

    def do_PUT(self):
        self._handle("PUT")


def _private(asked):
    """What a new repository is to be, as clients of several ages say it; public where they do not."""
    return asked.get("private", asked.get("visibility") == "private")
