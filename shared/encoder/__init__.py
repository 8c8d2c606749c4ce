"""History encoder and item projection: one flat parameter vector in and out."""
