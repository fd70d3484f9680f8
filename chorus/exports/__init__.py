"""Results for other software: stores as COCO's annotations, occupancies as volumes and points (docs/exports.md)."""
