"""A Hub in memory, of datasets, Spaces and buckets: commits, branches, pull requests, LFS, tokens, privacy.

Over HTTP it answers the unmodified `huggingface_hub` and `datasets` clients, and goes wrong on demand: [`Hub.fault`].
`HF_ENDPOINT` has to name it, and `HF_HUB_DISABLE_XET=1` be set, before `huggingface_hub` is imported.
"""

import base64
import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_storage import Buckets


TOKENS = {"hf_of_me": "me", "hf_of_you": "you"}


@dataclass
class Repo:
    """Branches point at commits; a commit maps paths to the digests of their contents."""

    private: bool
    sdk: str | None = None
    gated: str | bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, str], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.messages)} {message} {sorted(files.items())}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class Hub:
    """The server, on a port of this machine. `check_card` says what is wrong with a card's head, by its text and type.

    `repos` has datasets by their names, and Spaces as `"spaces/me/name"`.
    """

    def __init__(self, port: int = 0):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[dict] = []
        self.buckets = Buckets()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def start(self, check_card: Callable[[str, str], list[str]] = lambda text, kind: []) -> None:
        self.check_card = check_card
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fault(self, request: str = "", times: int = 1, skip: int = 0, **what) -> None:
        """Makes the next requests that match a pattern go wrong.

        `status=500` answers so; `drop=True` reads half of the body and cuts the connection; `lose=True` carries the
        request out and cuts the connection instead of answering; `kill=pid_of` kills a process, before anything is
        done; `call=function` lets something else happen first.
        """
        self.faults.append({"request": request, "times": times, "skip": skip, **what})

    def next_fault(self, request: str) -> dict:
        for fault in self.faults:
            if fault["times"] and re.search(fault["request"], request):
                if fault["skip"]:
                    fault["skip"] -= 1
                    continue
                fault["times"] -= 1
                return fault
        return {}

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return {path: self.blobs[oid] for path, oid in repo.commits[repo.branches[revision]].items()}

    def store(self, content: bytes, lfs: bool) -> str:
        header = b"" if lfs else b"blob %d\0" % len(content)  # as git names it
        oid = (hashlib.sha256 if lfs else hashlib.sha1)(header + content).hexdigest()
        self.blobs[oid] = content
        return oid


def key(kind: str, owner: str, name: str) -> str:
    return f"{owner}/{name}" if kind == "datasets" else f"{kind}/{owner}/{name}"


def owner(key: str) -> str:
    return key.split("/")[-2]


def directory(path: str) -> dict:
    return {"type": "directory", "path": path, "oid": "", "size": 0}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for the client to acknowledge its head

    def log_message(self, *_) -> None:
        pass

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        request = f"{self.command} {unquote(url.path)}"
        length = int(self.headers.get("Content-Length", 0))
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = self.hub.next_fault(request)
        if "kill" in fault:
            os.kill(fault["kill"](), signal.SIGKILL)
        if "kill" in fault or "drop" in fault:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        if "call" in fault:
            fault["call"]()
        try:
            if "status" in fault:
                raise Refused(fault["status"], "injected by the test")
            with self.hub.lock:
                status, answer, headers = self.route([unquote(part) for part in url.path.strip("/").split("/")])
        except Refused as error:
            status, answer = error.status, {"error": error.message}
            headers = {"X-Error-Message": error.message, "X-Error-Code": error.code}
        if "lose" in fault:
            self.close_connection = True
            return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    # Who asks

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def readable(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.user() != owner(name)):
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, name: str, by_pull_request: bool = False) -> Repo:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        repo = self.readable(name)
        if user != owner(name) and not by_pull_request:
            raise Refused(403, f"Forbidden: you may not write to {name}.")
        return repo

    # What is asked

    def route(self, parts: list[str]):
        match parts:
            case ["api", "whoami-v2"]:
                return 200, {"name": self.user(), "type": "user", "orgs": []}, {}
            case ["api", "validate-yaml"]:
                return self.validate(json.loads(self.body))
            case ["api", "repos", "create"]:
                return self.create(json.loads(self.body))
            case ["api", "buckets", owner, name, *what]:
                if self.user() != owner:
                    raise Refused(403, f"Forbidden: the bucket is {owner}'s.")
                return self.hub.buckets.route(self.command, self.hub.url, f"{owner}/{name}", what, self.body)
            case ["buckets", owner, name, "resolve", *path]:
                return self.hub.buckets.resolve(self.hub.url, f"{owner}/{name}", "/".join(path))
            case ["lfs", oid]:
                if hashlib.sha256(self.body).hexdigest() != oid:
                    raise Refused(400, "The content is not what its name says.")
                self.hub.store(self.body, lfs=True)
                return 200, {}, {}
            case [("datasets" | "spaces") as kind, owner, name, "info", "lfs", "objects", "batch"]:
                return self.batch(key(kind, owner, name.removesuffix(".git")), json.loads(self.body))
            case [("datasets" | "spaces") as kind, owner, name, "resolve", revision, *path]:
                return self.resolve(key(kind, owner, name), revision, "/".join(path))
            case ["api", ("datasets" | "spaces" | "models") as kind, owner, name, *what]:
                return self.of_repo(key(kind, owner, name), what)
        raise Refused(404, f"Nothing at {self.path}", "EntryNotFound" if "resolve" in parts else "")

    def of_repo(self, name: str, what: list[str]):
        match what:
            case []:
                return self.info(name, "main")
            case ["revision", revision]:
                return self.info(name, revision)
            case ["commits", _]:
                about = {"id": "", "date": "2026-01-01T00:00:00.000Z", "authors": [], "message": ""}
                return 200, [about | {"title": text} for text in reversed(self.readable(name).messages)], {}
            case ["tree", revision, *path]:
                return self.tree(name, revision, "/".join(path))
            case ["paths-info", revision]:
                return self.paths_info(name, revision)
            case ["preupload", revision]:
                return self.preupload(name, revision, json.loads(self.body)["files"])
            case ["branch", branch]:
                repo = self.writable(name)
                if branch in repo.branches:
                    raise Refused(409, "The branch is there already.")
                repo.branches[branch] = repo.branches["main"]
                return 200, {}, {}
            case ["commit", revision]:
                return self.commit(name, revision)
        raise Refused(404, f"Nothing at {self.path}")

    def create(self, body: dict):
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        kind = f"{body['type']}s"
        name = key(kind, body.get("organization") or user, body["name"])
        url = f"{self.hub.url}/{name if kind == 'spaces' else f'datasets/{name}'}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this dataset repo", "url": url}, {}
        if user != owner(name):
            raise Refused(403, f"Forbidden: {user} may not create {name}.")
        repo = self.hub.repos[name] = Repo(private=body.get("visibility") == "private", sdk=body.get("sdk"))
        files = {".gitattributes": b"*.parquet filter=lfs\n"}
        if kind == "spaces":  # as the Hub fills a static one
            head = f"---\ntitle: {body['name']}\nemoji: \U0001f43b\nsdk: {body['sdk']}\n---\n"
            files |= {
                "README.md": head.encode(),
                "index.html": b"<p>Welcome to your static Space!",
                "style.css": b"p {}",
            }
        repo.commit("main", {path: self.hub.store(data, lfs=False) for path, data in files.items()}, "initial commit")
        return 200, {"url": url, "name": name}, {}

    def validate(self, body: dict):
        if errors := self.hub.check_card(body["content"], body["repoType"]):
            return 400, {"errors": [{"message": error} for error in errors], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def at(self, repo: Repo, revision: str) -> tuple[str, dict[str, str]]:
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repo.commits[sha]

    def info(self, name: str, revision: str):
        repo = self.readable(name)
        sha, files = self.at(repo, revision)
        answer = {"id": name.removeprefix("spaces/"), "sha": sha, "private": repo.private, "gated": repo.gated}
        answer |= {"siblings": [{"rfilename": path} for path in sorted(files)], "tags": []}
        return 200, answer | ({"sdk": repo.sdk} if repo.sdk else {}), {}

    def entry(self, path: str, oid: str) -> dict:
        size = len(self.hub.blobs[oid])
        entry = {"type": "file", "path": path, "oid": oid, "size": size}
        return entry | ({"lfs": {"oid": oid, "size": size, "pointerSize": 130}} if path.endswith(".parquet") else {})

    def tree(self, name: str, revision: str, folder: str):
        _, files = self.at(self.readable(name), revision)
        prefix = f"{folder}/" if folder else ""
        below = {path: oid for path, oid in sorted(files.items()) if path.startswith(prefix)}
        if folder and not below:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        deep = self.query.get("recursive", "").lower() in ("true", "1")
        entries = [self.entry(path, oid) for path, oid in below.items() if deep or "/" not in path[len(prefix) :]]
        folders = {prefix + path[len(prefix) :].split("/")[0] for path in below if "/" in path[len(prefix) :]}
        return 200, entries + [directory(path) for path in sorted(folders)], {}

    def paths_info(self, name: str, revision: str):
        _, files = self.at(self.readable(name), revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        entries = [self.entry(path, files[path]) for path in paths if path in files]
        folders = [path for path in paths if any(known.startswith(f"{path}/") for known in files)]
        return 200, entries + [directory(path) for path in folders], {}

    def resolve(self, name: str, revision: str, path: str):
        sha, files = self.at(self.readable(name), revision)
        if path not in files:
            raise Refused(404, f"Entry not found: {path}", "EntryNotFound")
        return 200, self.hub.blobs[files[path]], {"X-Repo-Commit": sha, "ETag": f'"{files[path]}"'}

    def preupload(self, name: str, revision: str, files: list[dict]):
        _, present = self.at(self.writable(name, "create_pr" in self.query), revision)
        modes = {file["path"]: "lfs" if file["path"].endswith((".parquet", ".png")) else "regular" for file in files}
        answer = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": present.get(path)}
            for path, mode in modes.items()
        ]
        return 200, {"files": answer}, {}

    def batch(self, name: str, body: dict):
        self.writable(name, by_pull_request=True)
        objects = [{"oid": item["oid"], "size": item["size"]} for item in body["objects"]]
        for item in objects:
            if item["oid"] not in self.hub.blobs:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        return 200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def commit(self, name: str, branch: str):
        repo = self.writable(name, "create_pr" in self.query)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        parent = header.get("parentCommit", repo.branches[branch])
        if "create_pr" not in self.query and repo.branches[branch] != parent:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[parent])
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]), lfs=False)
            elif kind == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refused(400, f"{value['path']} was not uploaded.")
                files[value["path"]] = value["oid"]
            elif kind == "deletedFile" and files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        if "create_pr" in self.query:
            branch = f"refs/pr/{1 + sum(known.startswith('refs/pr/') for known in repo.branches)}"
        sha = repo.commit(branch, files, header["summary"])
        number = branch.rsplit("/", 1)[-1]
        place = f"{self.hub.url}/{name if repo.sdk else f'datasets/{name}'}"
        answer = {"commitUrl": f"{place}/commit/{sha}", "commitOid": sha}
        return 200, answer | {"pullRequestUrl": f"{place}/discussions/{number}"}, {}
