"""Requests that the code sends, read from its source, and the actions that the security plugin checks for them.

Action names are those of OpenSearch 3.6.0 and ML Commons 3.6.0; a node test finds each of them in the node's own jars.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import darl_opensearch

PACKAGE = Path(darl_opensearch.__file__).parent
METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD")
NOT_SENT_TO_A_CLUSTER = ("node/", "io/", "pool/", "states/", "webhook.py", "cli/demo/")
ML = "cluster:admin/opensearch/ml/"
SEARCH = "indices:data/read/search"
WRITE = ("indices:data/write/bulk", "indices:data/write/bulk[s]", "indices:data/write/index")

# Request, as a pattern of what `requests_of` gives, to actions.
ACTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"GET /", ("cluster:monitor/main",)),
    (r"GET /_nodes/(plugins|_all/_none)", ("cluster:monitor/nodes/info",)),
    (r"GET /_cluster/settings", ("cluster:monitor/state",)),
    (r"PUT /_cluster/settings", ("cluster:admin/settings/update",)),
    (r"GET /_tasks", ("cluster:monitor/tasks/lists",)),
    (r"GET /_search/pipeline(/{})?", ("cluster:admin/search/pipeline/get",)),
    (r"PUT /_search/pipeline/{}", ("cluster:admin/search/pipeline/put",)),
    (r"DELETE /_search/pipeline/{}", ("cluster:admin/search/pipeline/delete",)),
    (r"POST /_plugins/_ml/models/_search", (ML + "models/search",)),
    (r"POST /_plugins/_ml/models/_register_meta", (ML + "register_model_meta",)),
    (r"POST /_plugins/_ml/models/{}/upload_chunk/{}", (ML + "upload_model_chunk",)),
    (r"POST /_plugins/_ml/models/_register", (ML + "register_model",)),
    # A node sends the second to the others for the user.
    (r"POST /_plugins/_ml/models/{}/_deploy", (ML + "deploy_model", ML + "deploy_model_on_nodes")),
    (r"POST /_plugins/_ml/models/{}/_undeploy", (ML + "undeploy_models", ML + "undeploy_model")),
    (r"PUT /_plugins/_ml/models/{}", (ML + "models/update", ML + "models/update_cache")),  # the second as above
    (r"DELETE /_plugins/_ml/models/{}", (ML + "models/delete",)),
    (r"POST /_plugins/_ml/connectors/_create", (ML + "create_connector",)),
    (r"POST /_plugins/_ml/connectors/_search", (ML + "connectors/search",)),
    (r"DELETE /_plugins/_ml/connectors/{}", (ML + "connectors/delete",)),
    (
        r"DELETE /_plugins/_ml/{}/{}",
        (ML + "models/delete", ML + "connectors/delete", ML + "model_groups/delete"),
    ),  # models.py
    (r"GET /_plugins/_ml/profile/models/{}", (ML + "profile/nodes",)),
    (r"GET /_plugins/_ml/tasks/{}", (ML + "tasks/get",)),
    (r"POST /_plugins/_ml/(_predict/text_similarity/{}|models/{}/_predict)", (ML + "predict",)),
    (r"GET /\*,-\.\*,\.ds-\*/_settings/.*", ("indices:monitor/settings/get",)),
    (r"GET /{}/_settings/{}", ("indices:monitor/settings/get",)),
    (r"GET /{}", ("indices:admin/get",)),
    (r"PUT /{}", ("indices:admin/create",)),
    (r"DELETE /{}", ("indices:admin/delete",)),
    (r"(PUT /{}/_mapping|client\.indices\.put_mapping)", ("indices:admin/mapping/put",)),
    (r"(POST /{}/_refresh|client\.indices\.refresh)", ("indices:admin/refresh",)),
    (r"(POST (/{})?/_search|GET /{}/_count|client\.search)", (SEARCH,)),
    # A single document is written as a bulk request of one.
    (r"PUT /{}/(_create|_doc)/{}", WRITE),
    (r"(POST /_bulk|client\.(bulk|streaming_bulk))", WRITE),
    (r"client\.scan", (SEARCH, "indices:data/read/scroll", "indices:data/read/scroll/clear")),
    (r"(client\.create_pit|POST /{}/_search/point_in_time)", ("indices:data/read/point_in_time/create",)),
    (r"(client\.delete_pit|DELETE /_search/point_in_time)", ("indices:data/read/point_in_time/delete",)),
    (r"(client\.indices\.exists|HEAD /{})", ("indices:admin/get",)),
    (r"(client\.indices\.get_data_stream|GET /_data_stream/{})", ("indices:admin/data_stream/get",)),
    (r"(client\.indices\.create_data_stream|PUT /_data_stream/{})", ("indices:admin/data_stream/create",)),
    (r"(client\.indices\.get_index_template|GET /_index_template/{})", ("indices:admin/index_template/get",)),
    (r"(client\.indices\.put_index_template|PUT /_index_template/{})", ("indices:admin/index_template/put",)),
)

# By which role's users a module's requests are sent. The first prefix that fits counts; () are users with
# permissions of other plugins.
SENT_BY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cluster/setup/", ()),
    ("cluster/workbench/", ()),  # a user of that plugin
    ("cluster/doctor/", ()),  # what a user may not read is not checked
    ("cluster/uninstall/", ()),  # an administrator
    ("cluster/index.py", ("loader",)),
    ("cluster/without_text.py", ("loader", "operator")),  # darl release --index counts them too
    ("cluster/item_index.py", ("operator",)),  # darl release --warm; darl mine only searches
    ("cluster/calls.py", ("operator", "loader", "reader", "searcher")),  # the search of other modules
    ("cluster/", ("operator",)),
    ("connect.py", ("operator", "loader", "reader", "searcher")),
    ("ood/stream.py", ("shipper",)),
    ("ood/shipper.py", ("shipper",)),
    ("ood/store.py", ("reader",)),
    ("reranker.py", ("searcher",)),
    ("search.py", ("searcher",)),
)


# What a role's users need besides: another module sends it for them, or the cluster does.
INDIRECT: dict[str, dict[str, str]] = {
    "searcher": {
        "cluster:admin/search/pipeline/get": "PipelineSearch reads its pipeline",
        ML + "predict": "the pipeline's processors run the model",
    },
}


def requests_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and request of each call that reaches a cluster: ``GET /_nodes/plugins``, ``client.indices.refresh``.

    Values that are not constants are ``{}``; queries are left out.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }  # fmt: skip
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        local = {
            node.targets[0].id: node.value for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }  # fmt: skip
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (request := _request(node, constants | local)):
                yield node.lineno, request


def _request(call: ast.Call, known: dict[str, ast.expr]) -> str:
    func, args = ast.unparse(call.func), call.args
    receiver, _, name = func.rpartition(".")
    for method, path in itertools.pairwise(args):
        if isinstance(method, ast.Constant) and method.value in METHODS and receiver != "client":  # that asks scorers
            return f"{method.value} {_text(path, known).partition('?')[0]}"
    if receiver.endswith("cluster") and name in ("send", "read") and "method" not in [ast.unparse(arg) for arg in args]:
        raise ValueError(f"line {call.lineno}: the method of {ast.unparse(call)} is not a constant")
    if name == "search" and receiver.endswith("cluster"):
        return "POST /{}/_search"
    if re.search(r"(^|[._])client(\.indices)?$", receiver) and name not in ("close", "send"):
        return f"client.{'indices.' if receiver.endswith('.indices') else ''}{name}"
    if name in ("scan", "streaming_bulk") and args and ast.unparse(args[0]).endswith("client"):
        return f"client.{name}"
    return ""


def _text(node: ast.expr, known: dict[str, ast.expr]) -> str:
    """The path as far as it is constant."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.FormattedValue) else part for part in node.values)
        return "".join(_text(part, known) for part in parts)
    if isinstance(node, ast.BinOp):
        return _text(node.left, known) + _text(node.right, known)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "join_path":
        return "/" + "/".join(text if "{}" not in (text := _text(arg, {})) else "{}" for arg in node.args)
    if isinstance(node, ast.Name) and node.id in known:
        return _text(known[node.id], {name: value for name, value in known.items() if name != node.id})
    return "{}"


def generalize(method: str, url: str) -> tuple[str, str | None]:
    """Write a request that was sent as `requests_of` does; gives the index that it names, too."""
    words = {word for pattern, _ in ACTIONS for word in re.findall(r"\w+", pattern)}
    parts = urlsplit(url).path.strip("/").split("/")
    named = [unquote(part) for part in parts if part and part not in words]
    path = "/".join(part if part in words or "*" in part else "{}" for part in parts if part)
    whose = path.startswith(("{}", "_data_stream", "_index_template"))
    return f"{method} /{path}", named[0] if whose and named else None


def find_actions(request: str) -> tuple[str, ...]:
    """The actions of a request; none if it is not known."""
    return next((actions for pattern, actions in ACTIONS if re.fullmatch(pattern, request)), ())


def find_senders(module: str) -> tuple[str, ...] | None:
    """The roles whose users run a module; None if it is not known."""
    return next((roles for prefix, roles in SENT_BY if module.startswith(prefix)), None)


def sent_requests() -> Iterator[tuple[str, int, str]]:
    """Module, line and request of everything that is sent to a cluster."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        if not module.startswith(NOT_SENT_TO_A_CLUSTER):
            yield from ((module, line, request) for line, request in requests_of(path))
