"""Where the halves of a method run: concurrent stages, an emulated link, state on disk."""
