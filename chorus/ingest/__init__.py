"""Stores from images analysed elsewhere: records (docs/records.md), and COCO with EFT's fits (docs/coco-eft.md)."""

from chorus.ingest.record_folders import ingest_records

__all__ = ["ingest_records"]
