"""What an image is: references, digests, descriptors, manifests, configurations. Pure."""
