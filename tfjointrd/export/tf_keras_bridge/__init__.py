"""The bridge to tensorflow-model-optimization, which works on networks of tf_keras (Keras 2) alone.

`translate` makes a tf_keras network of a Keras 3 network, layer by layer; `quantizable` brings a network to a form that
can be trained with quantisation; `optimize` has the public calls. Nothing here imports TensorFlow before it is used.
"""
