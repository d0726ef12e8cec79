"""Prints what pip has to install before the code: `requirements.py build`, or the name of an extra of the project."""  # noqa: INP001 - a script

import pathlib
import sys
import tomllib

document = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8"))
if sys.argv[1] == "build":
    found = document["build-system"]["requires"]
else:
    project = document["project"]
    found = [*project["dependencies"], *project["optional-dependencies"][sys.argv[1]]]
print("\n".join(found))  # noqa: T201 - that is its job
