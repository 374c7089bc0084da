"""What is kept on disk between builds: blobs, unpacked layers, mends, and work in progress."""
