"""What of the flow a region runs as primary, and what it runs as replica. A promotion swaps them."""
