"""What runs in a worker as well as on the driver: models, sessions, tensors, encoders, outputs. No Spark here."""
