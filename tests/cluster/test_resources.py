from cluster.resources import ClusterConfig


def test_shortage_names_what_is_missing() -> None:
    asked = ClusterConfig(num_workers=3, use_gpu=True, cpus_per_worker=2)
    assert asked.worker_resources() == {"CPU": 2, "GPU": 1}
    assert asked.shortage({"CPU": 6.0, "GPU": 3.0}) == ""
    assert asked.shortage({"CPU": 8.0}) == "3 workers need 3 GPUs, there are 0"
    assert asked.shortage({"CPU": 4.0, "GPU": 1.0}) == "3 workers need 6 CPUs, there are 4 and 3 GPUs, there are 1"
