"""A static page that classifies pictures in the browser with `.tflite` files, as an app would.

No module here needs Keras or TensorFlow.
"""

from tfjointrd.export.page.write_page import write_page

__all__ = ["write_page"]
