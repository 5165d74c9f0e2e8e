"""Images by URL: fetched once ever (`fetch`), checked (`check`), kept (`store`); `ingest` joins the three."""

from pipeline.images.check import ImageConfig, ImageError, VerifiedImage, verify_image
from pipeline.images.ingest import Images
from pipeline.images.store import ImageStore

__all__ = ["ImageConfig", "ImageError", "ImageStore", "Images", "VerifiedImage", "verify_image"]
