"""Ways to run a training other than `model.fit` on one device."""
