"""A server that answers like the Hugging Face hub, on this machine."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + 34 * "x"


class Hub:
    """Repositories in memory: name -> commits, branches.

    All files are sent within the commit, none by LFS.
    """

    def __init__(self):
        self.repositories = {}
        self.asked = []
        """Method and path of every request."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def create(self, name, private=False):
        """A new repository, as the hub's page makes it."""
        repository = {"private": private, "commits": {}, "branches": {}}
        self.repositories[name] = repository
        self.commit(name, "main", {".gitattributes": b""})

    def commit(self, name, branch, files, deleted=()):
        """Commit files, path -> bytes; return the commit."""
        repository = self.repositories[name]
        parent = repository["branches"].get(branch)
        tree = {**repository["commits"].get(parent, {}), **files}
        tree = {k: v for k, v in tree.items() if k not in deleted}
        text = repr((parent, sorted(tree.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        repository["commits"][commit] = tree
        repository["branches"][branch] = commit
        return commit

    def resolve(self, name, revision):
        """Commit of a revision, or None."""
        repository = self.repositories[name]
        commit = repository["branches"].get(revision, revision)
        return commit if commit in repository["commits"] else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def refuse(self, status, code, message):
        self.answer(
            status,
            {"error": message},
            **{"X-Error-Code": code, "X-Error-Message": message},
        )

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        found = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?"
            r"|/([^/]+/[^/]+)/resolve/([^/]+)/(.+)",
            path,
        )
        name = found and (found[1] or found[4])
        repository = self.hub.repositories.get(name)
        allowed = repository and (
            not repository["private"]
            or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        )
        if not allowed:
            self.refuse(404, "RepoNotFound", "Repository not found")
            return
        commit = self.hub.resolve(name, found[3] or found[5] or "main")
        if not commit:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        tree = repository["commits"][commit]
        if found[6]:
            content = tree[found[6]]
            blob = hashlib.sha1(content).hexdigest()
            self.answer(200, content, ETag=f'"{blob}"', X_Repo_Commit=commit)
        elif found[2] == "tree":
            files = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for path, content in tree.items()
            ]
            self.answer(200, files)
        else:
            about = {"_id": "0", "id": name, "sha": commit, "tags": []}
            about["private"] = repository["private"]
            about["siblings"] = [{"rfilename": path} for path in tree]
            self.answer(200, about)

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        body = self.body()
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            url = f"{self.hub.address}/{name}"
            if name in self.hub.repositories:
                self.answer(409, {"error": "already created", "url": url})
                return
            private = (
                asked.get("private") or asked.get("visibility") == "private"
            )
            self.hub.create(name, bool(private))
            self.answer(200, {"url": url})
            return
        name, what, revision = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)", path
        ).groups()
        if what == "branch":
            repository = self.hub.repositories[name]
            start = repository["branches"]["main"]
            repository["branches"].setdefault(revision, start)
            self.answer(200, {})
        elif what == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        else:
            files, deleted = {}, set()
            for line in body.splitlines():
                told = json.loads(line)
                value = told["value"]
                if told["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif told["key"] == "deletedFile":
                    deleted.add(value["path"])
            commit = self.hub.commit(name, revision, files, deleted)
            url = f"{self.hub.address}/{name}/commit/{commit}"
            self.answer(200, {"commitUrl": url, "commitOid": commit})
