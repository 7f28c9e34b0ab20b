"""Data: folders of images, named data sets, files of pixels and plain torch data, all made into `Data`."""
