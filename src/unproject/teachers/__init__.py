"""Labels that need no annotation."""
