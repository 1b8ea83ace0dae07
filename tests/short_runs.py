"""Small networks that run for a few steps cost more to trace and to optimise than to train: TensorFlow does less of it.

Networks compute the same.
"""

import functools
import inspect
import math

# Up to how many steps cost less without a graph than tracing one costs: measured with networks of six convolutions.
STEPS_WITHOUT_A_GRAPH = {"fit": 6, "evaluate": 4, "predict": 2}


def trace_with_less_work(patch):
    """Steps are traced once, and neither optimised nor followed for messages.

    Args:
        patch: A `pytest.MonkeyPatch`.
    """
    import keras
    import tensorflow as tf
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    def build(model, iterator=None, data_batch=None):
        """Metrics and momenta that are made while a step is traced let TensorFlow trace it once more."""
        if model._distribute_strategy is not None:
            before(model, iterator, data_batch)
        elif model.built and not model.run_eagerly and (iterator is None or data_batch is None):
            batch = iterator._distributed_dataset.element_spec if data_batch is None else data_batch
            model._symbolic_build(data_batch=keras.tree.map_structure(symbolic, batch))

    def symbolic(x):
        """A tensor of the same kind; nothing where labels or weights are left out."""
        if not hasattr(x, "shape"):
            return None
        return keras.KerasTensor(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))

    before = TensorFlowTrainer._maybe_symbolic_build
    patch.setattr(TensorFlowTrainer, "_maybe_symbolic_build", build)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    keras.config.disable_traceback_filtering()
    tf.debugging.disable_traceback_filtering()


def run_without_a_graph(patch):
    """Trainings, evaluations and predictions of a few steps are not traced; longer ones are.

    What has a graph already, what XLA compiles and what several devices share runs as users have it.

    Args:
        patch: A `pytest.MonkeyPatch`.
    """
    import keras
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    functions = ("train_function", "test_function", "predict_function")
    running = []

    def length(x, batch_size=None, steps=None, **_):
        """How many steps a look at all the data takes, as far as it is known."""
        x = keras.tree.flatten(x)[0] if isinstance(x, (list, tuple, dict)) else x
        if steps is None and hasattr(x, "shape"):
            steps = -(-x.shape[0] // (batch_size or 32))
        try:
            return len(x) if steps is None else steps
        except TypeError:
            return math.inf

    def count(name, x=None, epochs=1, initial_epoch=0, steps_per_epoch=None, **given):
        if name != "fit":
            return length(x, **given)
        return (epochs - initial_epoch) * length(x, given.get("batch_size"), steps_per_epoch)

    def patched(name, method, function):
        signature = inspect.signature(method)

        @functools.wraps(method)
        def run(model, *args, **kwargs):
            made = {own: getattr(model, own) for own in functions}
            given = signature.bind(model, *args, **kwargs).arguments
            traced = (
                model in running
                or made[function] is not None
                or model.run_eagerly
                or model.steps_per_execution > 1
                or model._distribute_strategy is not None
                or model.jit_compile
                or count(name, **{key: value for key, value in given.items() if key not in ("self", "kwargs")})
                > STEPS_WITHOUT_A_GRAPH[name]
            )
            running.append(model)
            model.run_eagerly = model.run_eagerly or not traced
            try:
                return method(model, *args, **kwargs)
            finally:
                running.pop()
                if not traced:
                    model.run_eagerly = False
                    for own, before in made.items():
                        setattr(model, own, before)

        return run

    for name, function in zip(STEPS_WITHOUT_A_GRAPH, functions, strict=True):
        patch.setattr(TensorFlowTrainer, name, patched(name, getattr(TensorFlowTrainer, name), function))
