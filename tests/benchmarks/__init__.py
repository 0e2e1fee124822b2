"""Measurements that anyone can repeat; not run by pytest."""
