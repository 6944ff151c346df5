"""Saved objects of OpenSearch Dashboards: rendered from ``plugin_config/dashboards.ndjson`` and imported by its API.

Dashboards is a server of its own, with its own address. Ids begin with workspace and data source, as those of its
sample data do, so that one Dashboards can show several clusters. An object is ours by its description; an index
pattern, which has none, by its id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from darl_opensearch.cluster.calls import Cluster, is_ours, join_path
from darl_opensearch.cluster.pipelines import Change
from darl_opensearch.cluster.setup.options import SetupOptions
from darl_opensearch.config_files import render_lines
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError

FILE = "darl.ndjson"
PORT = 5601  # of Dashboards by http, where the URL names none
JSON_TEXTS = (
    "visState",
    "uiStateJSON",
    "searchSourceJSON",
    "panelsJSON",
    "optionsJSON",
)  # Dashboards keeps them as text

Saved = Mapping[str, Any]


def render_saved_objects(options: SetupOptions) -> list[dict[str, Any]]:
    """Render the saved objects: type, id, attributes, references and the version of their format."""
    source = [{"name": "dataSource", "type": "data-source", "id": options.data_source}] if options.data_source else []
    prefix = "".join(f"{part}_" for part in (options.workspace, options.data_source) if part)
    lines = render_lines(
        "dashboards.ndjson", prefix=prefix, data_source=source, stream=options.stream, history=options.history
    )
    return [_as_texts(line) for line in lines]


def format_lines(objects: Sequence[Saved]) -> list[str]:
    """Write saved objects as lines of a file that Dashboards imports."""
    return [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in objects]


@dataclasses.dataclass(frozen=True)
class Dashboards:
    """A server of OpenSearch Dashboards.

    :param api: requests go through it as to a cluster, so that a dry run lists them.
    :param boundary: what separates the parts of an import.
    """

    api: Cluster
    boundary: str

    @classmethod
    def open(cls, url: str, login: ClusterOptions, *, dry_run: bool = False) -> Dashboards:
        """Make a client; nothing is sent yet.

        :param login: user, password and certificates, as for the cluster.
        """
        boundary = secrets.token_hex(16)
        # Dashboards refuses requests without osd-xsrf. The type is that of the import, the only request with a body.
        headers = {"osd-xsrf": "true", "content-type": f"multipart/form-data; boundary={boundary}"}
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.port is None and parts.hostname:
            url = parts._replace(netloc=f"{parts.netloc}:{PORT}").geturl()
        return cls(Cluster.open(dataclasses.replace(login, url=url), dry_run=dry_run, headers=headers), boundary)

    def compare(self, objects: Sequence[Saved], workspace: str | None) -> dict[str, Change]:
        """Compare with what is there.

        :return: for each object, by type and id, what an import would come to.
        :raises ClusterError: if one of them is there and not ours.
        """
        return {f"{one['type']} {one['id']}": self._compare(one, workspace) for one in objects}

    def import_objects(self, objects: Sequence[Saved], workspace: str | None) -> None:
        """Import objects over those that are there.

        :raises ClusterError: if one was not accepted.
        """
        shown = {"file": FILE, "objects": [f"{one['type']} {one['id']}" for one in objects]}
        lines = "".join(f"{line}\n" for line in format_lines(objects))
        head = f'Content-Disposition: form-data; name="file"; filename="{FILE}"\r\nContent-Type: application/ndjson\r\n'
        content = f"--{self.boundary}\r\n{head}\r\n{lines}\r\n--{self.boundary}--\r\n".encode()
        place = f"{_root(workspace)}/_import?overwrite=true"
        with _at_dashboards():
            answer = self.api.send("POST", place, shown, content=content, pretend={"success": True})
        if answer.get("success") is not True:
            first = (answer.get("errors") or [{}])[0]
            what = f"{first.get('type')} {first.get('id')}: {(first.get('error') or {}).get('type')}"
            raise ClusterError(
                f"saved objects were not imported ({what})", where=self.api.url, todo="see Dashboards' log"
            )

    def _compare(self, one: Saved, workspace: str | None) -> Change:
        place = _root(workspace) + join_path(one["type"], one["id"])
        with _at_dashboards():
            found = self.api.read("GET", place, absent={})
        if "attributes" not in found:
            return "created"
        mine, theirs = one["attributes"], found["attributes"]
        if "description" in mine and not is_ours(theirs):
            raise ClusterError(
                f"saved object {one['type']} {one['id']} exists and was not created by darl",
                where=self.api.url,
                todo="delete it in Dashboards, or import into another workspace",
            )
        same = {name: theirs.get(name) for name in mine} == mine and (found.get("references") or []) == one[
            "references"
        ]
        return "unchanged" if same else "updated"


@contextlib.contextmanager
def _at_dashboards() -> Iterator[None]:
    """Name the option that gave the address in errors about it."""
    try:
        yield
    except ClusterError as err:
        todo = (err.todo or "check it").replace("--url", "--dashboards-url")
        raise ClusterError(err.what, where=err.where, todo=todo) from err


def _root(workspace: str | None) -> str:
    return (join_path("w", workspace) if workspace else "") + "/api/saved_objects"


def _as_texts(node: Any) -> Any:
    """Write as text what Dashboards keeps as text; in the file it is JSON, to be read."""
    if isinstance(node, dict):
        return {
            key: json.dumps(value, ensure_ascii=False) if key in JSON_TEXTS else _as_texts(value)
            for key, value in node.items()
        }
    return node
