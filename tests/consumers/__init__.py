"""The executor under the libraries that take one, each with the real library."""
