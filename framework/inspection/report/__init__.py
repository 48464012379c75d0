"""One page for one run or several."""
