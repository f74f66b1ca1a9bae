"""The launcher file of `--cluster`, checked before anything costs money: Ray's own account of a slip is a long one."""

from __future__ import annotations

import json
from pathlib import Path

from lth_trainable.errors import bad_value

EXPECTED = "a launcher file of Ray's, such as cluster.yaml"
OLDER = {"min_workers", "head_node", "worker_nodes"}  # of older files; Ray still knows what to do with them


def check_launcher_file(file: Path) -> None:
    """Raise `UserError` for a file that Ray's schema does not accept, with the place of what it does not."""
    import jsonschema
    import ray.autoscaler
    import yaml

    if not file.is_file():
        raise bad_value("cluster", str(file), EXPECTED, "there is no such file")
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise bad_value("cluster", str(file), EXPECTED, f"it is no YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if name not in OLDER}
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft7Validator(schema).iter_errors(content))
    if wrong is not None:
        place = wrong.json_path.removeprefix("$").removeprefix(".")
        raise bad_value("cluster", str(file), EXPECTED, f"{place}{': ' * bool(place)}{wrong.message}")
