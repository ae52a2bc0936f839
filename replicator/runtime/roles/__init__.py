"""The two halves of the flow: what a region runs as primary, and what it runs as replica. A promotion swaps them."""
