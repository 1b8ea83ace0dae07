"""The ways to train, each a `keras.Model` whose `fit` trains, and what they are made of."""
