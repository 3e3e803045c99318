"""Which packages are installed: `schedules/`, `models/` and `tuning_logs/` stand at the top of the repository and
belong to `mest_compiler`.

pyproject's discovery cannot look into folders that are mapped to another name, and a list written by hand
would go stale; everything else is said in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "mest_compiler": "mest_compiler",
    "mest_compiler.schedules": "schedules",
    "mest_compiler.models": "models",
    "mest_compiler.tuning_logs": "tuning_logs",  # no modules: the databases, which look-ups find beside the schedules
}


def packages() -> list[str]:
    """Dotted names of all packages under the folders above."""
    return [
        package
        for name, folder in FOLDERS.items()
        for package in [name, *(f"{name}.{inner}" for inner in find_packages(folder))]
    ]


setup(packages=packages(), package_dir=FOLDERS)
