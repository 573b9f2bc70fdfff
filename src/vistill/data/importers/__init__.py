"""Published collections of clips by their official annotations: what these say, and the files that
they speak of."""
