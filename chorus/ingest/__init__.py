"""Images analysed elsewhere into stores: a folder each (docs/records.md), COCO with EFT's fits (docs/coco-eft.md)."""

from chorus.ingest.record_folders import ingest_records

__all__ = ["ingest_records"]
