"""The wire between processes: `.proto` files and the code generated from them. Imported by process shells alone."""
