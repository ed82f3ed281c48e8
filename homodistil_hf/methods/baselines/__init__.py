"""Methods that HomoDistil is compared with: pruning at once or first, fewer layers, fresh students, other losses."""
