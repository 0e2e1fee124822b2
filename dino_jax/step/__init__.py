"""What one update computes, and the parts that it is made of."""
