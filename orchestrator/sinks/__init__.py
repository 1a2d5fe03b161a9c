"""Where else a run or a sweep can be followed: TensorBoard, MLflow, JSON lines."""
