"""What is asked of encoders and classifiers: one question a file."""
