"""COCO result files: zips of predictions in the form that COCO's evaluation servers took."""
