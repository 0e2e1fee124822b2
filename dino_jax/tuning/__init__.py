"""Tuning on products: photographs of one product come together, and only a gain is handed out."""
