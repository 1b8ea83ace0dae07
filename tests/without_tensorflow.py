"""Code that a process runs first to be as on a machine without TensorFlow."""

# An import hook. (An entry of None in `sys.modules` would tell Keras that TensorFlow is there.)
NO_TENSORFLOW = """
import sys
class Without:
    def find_spec(self, name, *args):
        if name.split(".")[0] == "tensorflow":
            raise ImportError(f"no {name} here")
sys.meta_path.insert(0, Without())
"""
