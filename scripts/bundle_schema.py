"""Write the JSON Schema of a bundle's key `imaging_node` from its declaration.

python scripts/bundle_schema.py
"""

from __future__ import annotations

import json

from imaging_node.inference.declaration import SCHEMA_FILE, declaration_schema


def text() -> str:
    """The file's content."""
    return json.dumps(declaration_schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(text(), encoding="utf-8")
