"""A page's policy names its script and style, and nothing else."""

from __future__ import annotations

import base64
import hashlib

from framework.server.policy import page_policy


def test_script_and_style_are_named_by_their_hashes() -> None:
    headers = page_policy("<style>\nb {}\n</style><p>c</p><script>a();\n</script>")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    for source, content in {"script-src": "a();\n", "style-src": "\nb {}\n"}.items():
        assert policy[source] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'" and headers["x-content-type-options"] == "nosniff"
