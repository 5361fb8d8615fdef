use super::*;
use serde_json::json;

#[test]
fn a_whole_configuration_is_read() {
    let config = Config::from_json(&json!({
        "start_id": "01J", "mode": "vm", "wall_clock_ns": 5, "entropy": "AAEC",
        "hostname": "m1", "machine_id": "0123456789abcdef0123456789abcdef",
        "root": {"lower": "/dev/vda", "upper": "/dev/vdb", "persist": true},
        "mounts": [{"device": "/dev/vdc", "path": "/data"}],
        "swap_mb": 64,
        "net": {"mac": "02:00:00:00:00:01", "addresses": ["10.61.0.5/32", "fdaa::2/112"],
                "gateway": "169.254.0.1", "gateway6": "fe80::1", "mtu": 1420},
        "hosts": [{"ip": "10.0.0.1", "names": ["a", "b"]}],
        "resolv": {"nameservers": ["fdaa::3"]},
        "env": [["A", "1"], ["B", ""]],
        "image_user": "app:app", "user": "",
        "argv": ["/bin/true"], "limits": {"nofile": 1024, "core": null},
    }))
    .unwrap();
    assert_eq!(config.identity.entropy, [0, 1, 2]);
    assert_eq!(config.program.user.as_deref(), Some("app:app"));
    assert_eq!(config.program.cwd, "/");
    assert_eq!(config.program.limits, [("nofile".to_owned(), 1024)]);
    let net = config.identity.net.unwrap();
    assert_eq!(net.addresses[1], ("fdaa::2".parse().unwrap(), 112));
    assert_eq!(net.gateways.len(), 2);
    assert_eq!(net.mac, Some([2, 0, 0, 0, 0, 1]));
    assert_eq!(config.mounts[0].fstype, "ext4");
}

#[test]
fn an_override_beats_the_image_user() {
    let program = Config::from_json(&json!({"image_user": "app", "user": "0:0"})).unwrap().program;
    assert_eq!(program.user.as_deref(), Some("0:0"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (value, words) in [
        (json!({"mounts": [{"device": "/dev/vdc", "path": "data"}]}), "absolute path"),
        (json!({"mounts": [{"device": "/dev/vdc", "path": "/a/../b"}]}), "absolute path"),
        (json!({"net": {"addresses": ["10.0.0.1/33"]}}), "prefix length"),
        (json!({"net": {"mac": "02:00"}}), "MAC"),
        (json!({"env": [["A=B", "1"]]}), "env"),
        (json!({"env": {"A": "1"}}), "env"),
        (json!({"argv": "true"}), "argv"),
        (json!({"machine_id": "xyz"}), "machine_id"),
        (json!({"hosts": [{"ip": "::1", "names": ["a\nb"]}]}), "blanks"),
        (json!({"limits": {"nofile": -1}}), "nofile"),
    ] {
        let error = Config::from_json(&value).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
