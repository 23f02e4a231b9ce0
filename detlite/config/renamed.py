"""Config keys that have a new name. Benchmarks read this table from several checkouts."""

# Old key -> new key. A config that detlite wrote is translated; in any other config an old key is an error.
RENAMED = {"MODEL.RPN.NMS_IOU": "MODEL.RPN.NMS.IOU", "MODEL.ROI_HEADS.NMS_IOU": "MODEL.ROI_HEADS.NMS.IOU"}
