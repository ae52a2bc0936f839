"""The way of a row: source ─▶ capture ─▶ journal ─▶ feed ═ HTTP ═▶ settle buffer ─▶ journal ─▶ replay ─▶ replica."""
