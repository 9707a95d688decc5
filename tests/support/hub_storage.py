"""Storage Buckets of our own Hub. Their contents lie where `hf_xet`, the real client, puts them: in a local store."""

import json
import struct
import tempfile
import time
from pathlib import Path


class Buckets:
    """What a handler of the Hub answers for `api/buckets/…`."""

    def __init__(self):
        self.store = tempfile.mkdtemp(prefix="xet_")
        self.files: dict[str, dict[str, dict]] = {}
        self.private: dict[str, bool] = {}

    def route(self, command: str, url: str, name: str, what: list[str], body: bytes):
        if command == "POST" and not what:
            answer = {"url": f"{url}/buckets/{name}"}
            if name in self.files:
                return 409, answer | {"error": "You already created this bucket"}, {}
            self.files[name] = {}
            self.private[name] = json.loads(body or b"{}").get("visibility") == "private"
            return 200, answer, {}
        if name not in self.files:
            return 404, {"error": "Bucket not found"}, {"X-Error-Code": "RepoNotFound"}
        files = self.files[name]
        match what:
            case []:
                known = {"id": name, "private": self.private.get(name, True), "createdAt": "2026-01-01T00:00:00.000Z"}
                size = sum(entry["size"] for entry in files.values())
                return 200, known | {"size": size, "totalFiles": len(files)}, {}
            case ["xet-write-token" | "xet-read-token"]:
                return 200, {"casUrl": f"local://{self.store}", "accessToken": "x", "exp": int(time.time()) + 3600}, {}
            case ["batch"]:
                for operation in map(json.loads, body.splitlines()):
                    if operation["type"] == "deleteFile":
                        del files[operation["path"]]
                    else:
                        size, time_of = self.sizes()[operation["xetHash"]], operation["mtime"] / 1000
                        files[operation["path"]] = {
                            "xetHash": operation["xetHash"],
                            "size": size,
                            "mtime": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time_of)),
                        }
                return 200, {"success": True}, {}
            case ["tree", *folder]:
                below = {path: entry for path, entry in sorted(files.items()) if path.startswith("/".join(folder))}
                return 200, [{"type": "file", "path": path, **entry} for path, entry in below.items()], {}
        return 404, {"error": f"nothing at {what}"}, {}

    def resolve(self, url: str, name: str, path: str):
        entry = self.files[name][path]
        headers = {"X-Xet-Hash": entry["xetHash"], "X-Linked-Size": entry["size"]}
        return 200, b"", headers | {"X-Xet-Refresh-Route": f"{url}/api/buckets/{name}/xet-read-token"}

    def sizes(self) -> dict[str, int]:
        """Of the stored files, by the hashes that the client knows them by, as its shards have them."""
        found = {}
        for shard in Path(self.store).glob("xet/xorbs/shards/*.mdb"):
            data, at = shard.read_bytes(), 48
            while (name := data[at : at + 32]) != b"\xff" * 32:
                flags, count = struct.unpack_from("<II", data, at + 32)
                segments = range(at + 48, at + 48 + 48 * count, 48)
                hexadecimal = "".join(f"{part:016x}" for part in struct.unpack("<4Q", name))
                found[hexadecimal] = sum(struct.unpack_from("<I", data, place + 36)[0] for place in segments)
                at += 48 * (1 + count + count * (flags >> 31) + (flags >> 30 & 1))
        return found
