"""Every notebook, from top to bottom, in Jupyter; runs with --notebooks.

Notebooks of a process share a kernel, in which TensorFlow is imported once; each begins with an empty namespace. At
smoke scale it traces less, as in all tests.
"""

import os
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
AFRESH = """%reset -f
import gc, keras
keras.utils.clear_session()
keras.config.set_dtype_policy("float32")
gc.collect()
%reset -f
"""
IN_LESS_TIME = f"""
import pytest, sys
sys.path.append({str(Path(__file__).parent)!r})
import short_runs
patch = pytest.MonkeyPatch()
short_runs.trace_with_less_work(patch)
short_runs.run_without_a_graph(patch)
"""


@pytest.fixture(scope="session")
def kernel():
    from jupyter_client import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable  # a kernel of that name may be installed for another Python
    if os.environ.get("TFJOINTRD_SCALE", "smoke") == "smoke":
        run(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_LESS_TIME)]), manager)
    yield manager
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, kernel):
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AFRESH))
    run(notebook, kernel)


def run(notebook, kernel):
    from nbclient import NotebookClient

    client = NotebookClient(notebook, km=kernel, timeout=1800, resources={"metadata": {"path": str(FOLDER)}})
    try:
        client.execute()
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
