use super::*;

fn open(node: u64, writable: bool) -> Open {
    Open { node, writable, file: Arc::new(File::open("/dev/null").expect("it is there")) }
}

#[test]
fn of_many_files_those_that_were_used_last_are_open() {
    let mapped = Mapped::default();
    for node in 0..100 {
        mapped.put(open(node, false));
        assert!(mapped.get(0, false).is_some(), "used all the time");
    }
    assert_eq!(mapped.lock().len(), MOST);
    let kept: Vec<u64> = (0..100).filter(|node| mapped.get(*node, false).is_some()).collect();
    assert_eq!(kept, [vec![0], (37..100).collect()].concat());
}

#[test]
fn a_file_that_can_be_written_takes_the_place_of_one_that_cannot_and_not_the_other_way_round() {
    let mapped = Mapped::default();
    mapped.put(open(7, false));
    assert!(mapped.get(7, true).is_none() && mapped.get(8, false).is_none());
    mapped.put(open(7, true));
    let file = mapped.get(7, true).expect("it can be written");
    mapped.put(open(7, false));
    assert!(Arc::ptr_eq(&mapped.get(7, false).expect("it serves to be read"), &file));
    assert_eq!(mapped.lock().len(), 1);
    mapped.forget(7);
    mapped.forget(7);
    assert_eq!((mapped.lock().len(), Arc::strong_count(&file)), (0, 1));
}
