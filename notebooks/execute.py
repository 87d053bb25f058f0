"""Execute the notebooks and keep what they print and draw: ``python notebooks/execute.py [NAME ...]``.

Every notebook starts in the repository's root with a fresh kernel, without a network. The first that fails ends it,
and is left as it was.
"""

import argparse
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def executed(path: Path) -> Any:
    """Return the notebook of a file after all its cells have run; without times, so that it stays the same."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    quiet = {"PYTHONWARNINGS": "ignore:IProgress not found", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", **quiet}
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}, record_timing=False
    )
    client.execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def main() -> None:
    """Execute the named notebooks, or all."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 100; default: all")
    names = parser.parse_args().names
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not names or any(path.name.startswith(name) for name in names):
            print(path.name, flush=True)
            notebook = executed(path)
            fresh = path.with_suffix(".tmp")
            nbformat.write(notebook, fresh)
            fresh.replace(path)


if __name__ == "__main__":
    main()
