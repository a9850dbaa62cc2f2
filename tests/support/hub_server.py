"""A stand-in for the Hub: what creating a repository and uploading a folder call, and no more."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


LARGE = 1000  # bytes: what is larger goes to large file storage, and so does .safetensors


class HubServer(ThreadingHTTPServer):
    """Serves on a free port of this machine; remembers requests, repositories and the bytes of their files."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.repositories: dict[str, bool] = {}  # whether each is private
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.verified: set[str] = set()
        self.files: dict[str, bytes] = {}  # what was committed
        self.broken: str | None = None  # requests with this in their path fail

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.serve(b"")

    def do_POST(self):
        self.serve(self.rfile.read(int(self.headers["Content-Length"])))

    do_PUT = do_POST

    def serve(self, body: bytes) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        hub.tokens.add(self.headers["Authorization"])
        if hub.broken and hub.broken in path:
            return self.answer({"error": "out of order"}, status=403)
        for ending, action in ACTIONS.items():
            if ending in path:
                return action(self, path, body)
        name = path.removeprefix("/api/models/")
        if name not in hub.repositories:
            return self.answer({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
        self.answer({"id": name, "private": hub.repositories[name], "tags": [], "siblings": []})

    def create(self, path: str, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        self.server.repositories[name] = wanted["visibility"] == "private"
        self.answer({"url": f"{self.server.url}/{name}"})

    def choose_modes(self, path: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        large = {file["path"]: file["size"] > LARGE or file["path"].endswith(".safetensors") for file in files}
        modes = [{"path": k, "uploadMode": "lfs" if v else "regular", "shouldIgnore": False} for k, v in large.items()]
        self.answer({"files": modes})

    def batch(self, path: str, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        url = self.server.url
        actions = [
            {"upload": {"href": f"{url}/put/{item['oid']}"}, "verify": {"href": f"{url}/verify/{item['oid']}"}}
            for item in objects
        ]
        answers = [{**item, "actions": action} for item, action in zip(objects, actions, strict=True)]
        self.answer({"transfer": "basic", "objects": answers})

    def put(self, path: str, body: bytes) -> None:
        oid = path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.answer({})

    def verify(self, path: str, body: bytes) -> None:
        claimed = json.loads(body)
        assert len(self.server.objects[claimed["oid"]]) == claimed["size"]
        self.server.verified.add(claimed["oid"])
        self.answer({})

    def commit(self, path: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.files[line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
        url = f"{self.server.url}{path.removeprefix('/api/models').partition('/commit/')[0]}/commit/{'1' * 40}"
        self.answer({"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})

    def answer(self, content: dict, status: int = 200, **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


# What is done, by a piece of the path.
ACTIONS = {
    "/api/repos/create": Handler.create,
    "/api/validate-yaml": lambda handler, path, body: handler.answer({"warnings": [], "errors": []}),
    "/preupload/": Handler.choose_modes,
    "/info/lfs/objects/batch": Handler.batch,
    "/put/": Handler.put,
    "/verify/": Handler.verify,
    "/commit/": Handler.commit,
}
