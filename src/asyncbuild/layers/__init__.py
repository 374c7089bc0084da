"""Files to tar and back: entries, change sets, pack, unpack, compression. Blocking code, no trio."""
