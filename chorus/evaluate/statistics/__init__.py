"""What stores hold (Tables 1, 3 and 5): counts by reason, camera entropy, cameras by view augmentation."""
