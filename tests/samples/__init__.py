"""The replies of the service as its documentation and its clients show them; ``index.json`` says how sure each of them is."""

import json
from pathlib import Path
from typing import Any


def sample(name: str) -> Any:
    """Return the JSON of one reply."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text())
